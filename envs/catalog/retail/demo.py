"""A small shop, made by a seed, so that the environment can be tried without any data."""

import itertools
import random
from collections.abc import Callable
from functools import cache

from .database import Address, Item, Order, PaymentMethod, Product, Shop, User, Variant

POLICY = """You serve the customers of a small shop. You can cancel or change pending orders, take back or \
exchange delivered ones, change a customer's address, and tell customers about their orders and our products.

- First find the customer: by email, or by name and zip code. Serve this customer only.
- Before you change anything, say what you are going to do, and wait for a yes.
- Make one call at a time. A message to the customer holds no call.
- Make nothing up. What you do not know, look up or ask.
- A pending order can be cancelled (reason: 'no longer needed' or 'ordered by mistake'), sent to another \
address, or paid by another method. Its items can be changed to other variants of the same products: once, \
all in one call, and nothing can be changed afterwards.
- Items of a delivered order can be returned, or exchanged for other variants of the same products: one \
of the two, once, all in one call. A refund goes to the method that paid, or to a gift card.
- A gift card must hold what it is to pay.
- Hand the customer over to a human agent when the tools cannot help, and only then."""

NAMES = (("Ada", "Berg"), ("Bruno", "Costa"), ("Chiara", "Dietz"), ("Dev", "Ekholm"), ("Elif", "Ferrer"))
PRODUCTS = {
    "Mug": {"color": ("blue", "green", "white"), "size": ("small", "large")},
    "Notebook": {"paper": ("lined", "plain"), "cover": ("cloth", "leather")},
    "Scarf": {"color": ("grey", "red"), "material": ("silk", "wool")},
    "Lamp": {"height": ("30 cm", "50 cm"), "light": ("cold", "warm")},
}
STREETS, CITIES = ("Mill Lane", "Quay Street", "High Road"), (("Bern", "BE"), ("Graz", "ST"), ("Turin", "TO"))
STATUSES = ("pending", "delivered", "pending", "delivered", "processed")
NUM_ORDERS = 4
"""Of each user."""


@cache
def demo_shop(seed: int) -> Shop:
    """Five users with four orders each, four products.

    >>> len(demo_shop(0).orders)
    20
    """
    chance = random.Random(f"shop {seed}")
    products = {
        product["product_id"]: product for product in itertools.starmap(_product(chance), PRODUCTS.items())
    }
    users: dict[str, User] = {}
    orders: dict[str, Order] = {}
    for first, last in NAMES:
        user = _user(chance, first, last)
        users[f"{first}_{last}_{chance.randrange(1000, 10000)}".lower()] = user
    statuses = itertools.cycle(STATUSES)
    for user_id, user in users.items():
        for _ in range(NUM_ORDERS):
            order = _order(chance, user_id, user, list(products.values()), next(statuses))
            orders[order["order_id"]] = order
            user["orders"].append(order["order_id"])
    return Shop(users=users, products=products, orders=orders, policy=POLICY)


def _id(chance: random.Random) -> str:
    """Ten digits, so that it is new each time."""
    return str(chance.randrange(10**9, 10**10))


def _product(chance: random.Random) -> Callable[[str, dict[str, tuple[str, ...]]], Product]:
    def make(name: str, options: dict[str, tuple[str, ...]]) -> Product:
        variants: dict[str, Variant] = {}
        for values in itertools.product(*options.values()):
            item_id, price = _id(chance), chance.randrange(1000, 9000) / 100
            chosen = dict(zip(options, values, strict=True))
            variants[item_id] = {
                "item_id": item_id,
                "options": chosen,
                "available": chance.random() < 0.8,
                "price": price,
            }
        return {"name": name, "product_id": _id(chance), "variants": variants}

    return make


def new_address(chance: random.Random) -> Address:
    city, state = chance.choice(CITIES)
    return {
        "address1": f"{chance.randrange(1, 200)} {chance.choice(STREETS)}",
        "address2": f"Floor {chance.randrange(1, 9)}",
        "city": city,
        "state": state,
        "country": "EU",
        "zip": str(chance.randrange(10_000, 100_000)),
    }


def _user(chance: random.Random, first: str, last: str) -> User:
    card, gift = f"credit_card_{_id(chance)}", f"gift_card_{_id(chance)}"
    methods: dict[str, PaymentMethod] = {
        card: {"id": card, "source": "credit_card"},
        gift: {"id": gift, "source": "gift_card", "balance": 2000.0},
    }
    return {
        "name": {"first_name": first, "last_name": last},
        "address": new_address(chance),
        "email": f"{first}.{last}@example.com".lower(),
        "payment_methods": methods,
        "orders": [],
    }


def _order(chance: random.Random, user_id: str, user: User, products: list[Product], status: str) -> Order:
    items: list[Item] = []
    for product in chance.sample(products, chance.randrange(1, 4)):
        variant = chance.choice(list(product["variants"].values()))
        items.append(
            {
                "name": product["name"],
                "product_id": product["product_id"],
                "item_id": variant["item_id"],
                "price": variant["price"],
                "options": dict(variant["options"]),
            }
        )
    method = chance.choice(list(user["payment_methods"]))
    return {
        "order_id": f"#W{_id(chance)}",
        "user_id": user_id,
        "address": user["address"],
        "items": items,
        "status": status,
        "payment_history": [
            {"transaction_type": "payment", "amount": total(items), "payment_method_id": method}
        ],
    }


def total(items: list[Item]) -> float:
    return round(sum(item["price"] for item in items), 2)
