"""The shop's records as they lie on disk, and one episode's changes to them."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from ...errors import ToolError

KEEP_ALL = ConfigDict(extra="allow")
T = TypeVar("T")


class Name(TypedDict):
    first_name: str
    last_name: str


class Address(TypedDict):
    address1: str
    address2: str
    city: str
    state: str
    country: str
    zip: str


@with_config(KEEP_ALL)
class PaymentMethod(TypedDict):
    id: str
    source: str
    """"gift_card", "credit_card" or "paypal"."""
    balance: NotRequired[float]
    """What is left on a gift card."""


@with_config(KEEP_ALL)
class User(TypedDict):
    name: Name
    address: Address
    email: str
    payment_methods: dict[str, PaymentMethod]
    orders: list[str]


@with_config(KEEP_ALL)
class Variant(TypedDict):
    item_id: str
    options: dict[str, str]
    available: bool
    price: float


@with_config(KEEP_ALL)
class Product(TypedDict):
    name: str
    product_id: str
    variants: dict[str, Variant]


@with_config(KEEP_ALL)
class Item(TypedDict):
    name: str
    product_id: str
    item_id: str
    price: float
    options: dict[str, str]


class Payment(TypedDict):
    transaction_type: str
    """"payment" or "refund"."""
    amount: float
    payment_method_id: str


@with_config(KEEP_ALL)
class Order(TypedDict):
    order_id: str
    user_id: str
    address: Address
    items: list[Item]
    status: str
    """"pending", "processed", "delivered", "cancelled", or what a change makes of these."""
    payment_history: Annotated[list[Payment], Field(min_length=1)]
    cancel_reason: NotRequired[str]
    return_items: NotRequired[list[str]]
    return_payment_method_id: NotRequired[str]
    exchange_items: NotRequired[list[str]]
    exchange_new_items: NotRequired[list[str]]
    exchange_payment_method_id: NotRequired[str]
    exchange_price_difference: NotRequired[float]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """What every episode starts from. Nobody writes to it: an episode has a `Database` over it."""

    users: Mapping[str, User]
    products: Mapping[str, Product]
    orders: Mapping[str, Order]
    policy: str
    """What the agent is told to do and not to do."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the records."""
        return digest({"users": self.users, "products": self.products, "orders": self.orders})

    @cached_property
    def user_by_email(self) -> Mapping[str, str]:
        """Emails in lower case."""
        return {user["email"].lower(): user_id for user_id, user in self.users.items()}


class Database:
    """The shop as one episode sees it. Records are copied when they are asked for, so they may be changed."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self._users: dict[str, User] = {}
        self._orders: dict[str, Order] = {}

    def user(self, user_id: str) -> User:
        """Raises `ToolError` where there is none, as the others do."""
        return _copied(user_id, self._users, self.shop.users, "user")

    def order(self, order_id: str) -> Order:
        return _copied(order_id, self._orders, self.shop.orders, "order")

    def product(self, product_id: str) -> Product:
        """Not a copy: nothing changes products."""
        if product_id not in self.shop.products:
            raise ToolError(f"product {product_id!r} not found")
        return self.shop.products[product_id]

    def changes(self) -> dict[str, Any]:
        """The records that are not what they were, and the digest of what they were."""
        return {
            "shop": self.shop.digest,
            "users": {key: new for key, new in self._users.items() if new != self.shop.users[key]},
            "orders": {key: new for key, new in self._orders.items() if new != self.shop.orders[key]},
        }


def _copied(key: str, own: dict[str, T], base: Mapping[str, T], kind: str) -> T:
    if key not in base:
        raise ToolError(f"{kind} {key!r} not found")
    return own.setdefault(key, deepcopy(base[key])) if key not in own else own[key]


def canonical(value: object) -> bytes:
    """One text for equal values.

    >>> canonical({"b": 1.0, "a": [True]})
    b'{"a":[true],"b":1.0}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()
