"""The seven changes that an agent can make, and what the shop refuses. Each is made wholly or not at all.

Arguments are named as those of the tools.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from ...errors import ToolError
from .database import Address, Database, Item, Order, PaymentMethod, User, Variant


def cancel(database: Database, order_id: str, reason: str) -> Order:
    """What was paid goes back to where it came from."""
    order = _order(database, order_id, "pending")
    user = database.user(order["user_id"])
    paid: defaultdict[str, float] = defaultdict(float)
    for payment in order["payment_history"]:
        sign = 1 if payment["transaction_type"] == "payment" else -1
        paid[payment["payment_method_id"]] += sign * payment["amount"]
    for payment_method_id, amount in paid.items():
        if (amount := round(amount, 2)) > 0:
            _refund(order, user, payment_method_id, amount)
    order["status"], order["cancel_reason"] = "cancelled", reason
    return order


def change_address(database: Database, order_id: str, **address: Unpack[Address]) -> Order:
    """Of one order; the user's own address stays."""
    order = _order(database, order_id, "pending")
    order["address"] = address
    return order


def change_user_address(database: Database, user_id: str, **address: Unpack[Address]) -> User:
    """The default; orders that are under way keep theirs."""
    user = database.user(user_id)
    user["address"] = address
    return user


def change_payment(database: Database, order_id: str, payment_method_id: str) -> Order:
    """The whole amount moves to another method."""
    order = _order(database, order_id, "pending")
    user = database.user(order["user_id"])
    method = _method(user, payment_method_id)
    if len(order["payment_history"]) != 1:
        raise ToolError(f"order {order_id!r} was not paid in one payment; its payment cannot be changed")
    (first,) = order["payment_history"]
    if first["payment_method_id"] == payment_method_id:
        raise ToolError(
            f"order {order_id!r} is paid with {payment_method_id!r} already; choose another method"
        )
    _check_balance(method, first["amount"])
    _pay(order, user, payment_method_id, first["amount"])
    _refund(order, user, first["payment_method_id"], first["amount"])
    return order


def change_items(
    database: Database, order_id: str, item_ids: list[str], new_item_ids: list[str], payment_method_id: str
) -> Order:
    """Other variants in place of the ordered ones. Once an order: it can then not be changed any more."""
    order = _order(database, order_id, "pending")
    user = database.user(order["user_id"])
    swap = _swap(database, order, item_ids, new_item_ids)
    _check_balance(_method(user, payment_method_id), swap.difference)
    if swap.difference > 0:
        _pay(order, user, payment_method_id, swap.difference)
    else:
        _refund(order, user, payment_method_id, abs(swap.difference))
    for item, new in zip(swap.items, swap.variants, strict=True):
        item["item_id"], item["price"], item["options"] = new["item_id"], new["price"], dict(new["options"])
    order["status"] = "pending (items modified)"
    return order


def request_return(database: Database, order_id: str, item_ids: list[str], payment_method_id: str) -> Order:
    """The refund goes to the method that paid, or to a gift card."""
    order = _order(database, order_id, "delivered")
    method = _method(database.user(order["user_id"]), payment_method_id)
    paid_with = order["payment_history"][0]["payment_method_id"]
    if method["source"] != "gift_card" and payment_method_id != paid_with:
        raise ToolError(
            f"a refund goes to {paid_with!r}, which paid, or to a gift card; not to {payment_method_id!r}"
        )
    _take(order, item_ids)
    order["status"] = "return requested"
    order["return_items"] = sorted(item_ids)
    order["return_payment_method_id"] = payment_method_id
    return order


def request_exchange(
    database: Database, order_id: str, item_ids: list[str], new_item_ids: list[str], payment_method_id: str
) -> Order:
    """Nothing is paid before the items are back; a gift card must hold enough today."""
    order = _order(database, order_id, "delivered")
    swap = _swap(database, order, item_ids, new_item_ids)
    _check_balance(_method(database.user(order["user_id"]), payment_method_id), swap.difference)
    pairs = sorted(zip(item_ids, new_item_ids, strict=True))
    order["status"] = "exchange requested"
    order["exchange_items"] = [old for old, _ in pairs]
    order["exchange_new_items"] = [new for _, new in pairs]
    order["exchange_payment_method_id"] = payment_method_id
    order["exchange_price_difference"] = swap.difference
    return order


WRITES: Mapping[str, Callable[..., Any]] = {
    "cancel_pending_order": cancel,
    "exchange_delivered_order_items": request_exchange,
    "modify_pending_order_address": change_address,
    "modify_pending_order_items": change_items,
    "modify_pending_order_payment": change_payment,
    "modify_user_address": change_user_address,
    "return_delivered_order_items": request_return,
}
"""By the names of the tools; the other tools only read."""


def _order(database: Database, order_id: str, status: str) -> Order:
    order = database.order(order_id)
    if order["status"] != status:
        raise ToolError(f"order {order_id!r} is {order['status']!r}; this is for orders that are {status!r}")
    return order


def _method(user: User, method_id: str) -> PaymentMethod:
    if method_id not in user["payment_methods"]:
        known = ", ".join(user["payment_methods"])
        raise ToolError(f"payment method {method_id!r} not found; the user has: {known}")
    return user["payment_methods"][method_id]


def _check_balance(method: PaymentMethod, amount: float) -> None:
    if "balance" in method and method["balance"] < amount:
        raise ToolError(f"{method['id']!r} holds {method['balance']:.2f}, which is under {amount:.2f}")


def _pay(order: Order, user: User, method_id: str, amount: float) -> None:
    _book(order, user, method_id, amount, "payment")


def _refund(order: Order, user: User, method_id: str, amount: float) -> None:
    _book(order, user, method_id, amount, "refund")


def _book(order: Order, user: User, method_id: str, amount: float, kind: str) -> None:
    order["payment_history"].append(
        {"transaction_type": kind, "amount": amount, "payment_method_id": method_id}
    )
    method = _method(user, method_id)
    if "balance" in method:
        method["balance"] = round(method["balance"] + (amount if kind == "refund" else -amount), 2)


def _take(order: Order, item_ids: list[str]) -> list[Item]:
    """The lines of the order, one for each id; the same id twice needs two lines."""
    if not item_ids:
        raise ToolError("item_ids is empty; name an item at least")
    left = list(order["items"])
    taken: list[Item] = []
    for item_id in item_ids:
        found = next((item for item in left if item["item_id"] == item_id), None)
        if found is None:
            raise ToolError(f"item {item_id!r} is not in order {order['order_id']!r}, or not that often")
        # By identity: two lines may be equal.
        left = [item for item in left if item is not found]
        taken.append(found)
    return taken


@dataclass(frozen=True, kw_only=True, slots=True)
class _Swap:
    items: list[Item]
    variants: list[Variant]
    difference: float
    """What the new ones cost more."""


def _swap(database: Database, order: Order, item_ids: list[str], new_item_ids: list[str]) -> _Swap:
    if len(item_ids) != len(new_item_ids):
        raise ToolError(f"{len(item_ids)} item_ids for {len(new_item_ids)} new_item_ids; give one for each")
    items = _take(order, item_ids)
    variants: list[Variant] = []
    for item, new_id in zip(items, new_item_ids, strict=True):
        variant = database.product(item["product_id"])["variants"].get(new_id)
        if variant is None:
            raise ToolError(f"{new_id!r} is no item of {item['name']!r}, product {item['product_id']!r}")
        if not variant["available"]:
            raise ToolError(f"item {new_id!r} is not available")
        variants.append(variant)
    paid = sum(item["price"] for item in items)
    difference = round(sum(variant["price"] for variant in variants) - paid, 2)
    return _Swap(items=items, variants=variants, difference=difference)
