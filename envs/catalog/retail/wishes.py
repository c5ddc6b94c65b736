"""What the users of the demo shop want."""

import random
from typing import Any

from .database import Order, Shop, User
from .demo import demo_shop, new_address, total
from .recording import Action, Recording

Wish = tuple[str, Action | None, str | None]
"""(the user's words, what an agent must do, what it must tell)."""


class Wishes:
    """What the demo shop's users come for."""

    def __init__(self, shop: Shop, chance: random.Random) -> None:
        self.shop, self.chance = shop, chance

    def recording(self) -> Recording:
        """One user with a wish, or with two about different orders."""
        chance = self.chance
        user = chance.choice(list(self.shop.users.values()))
        name = f"{user['name']['first_name']} {user['name']['last_name']}"
        who = chance.choice([f"email is {user['email']}", f"zip code is {user['address']['zip']}"])
        notes, actions, outputs = [f"Your name is {name} and your {who}."], list[Action](), list[str]()
        for order_id in chance.sample(user["orders"], chance.choice([1, 1, 2])):
            words, action, output = self._wish(self.shop.orders[order_id], user)
            notes.append(words)
            actions += [action] if action else []
            outputs += [output] if output else []
        return Recording(instruction=" ".join(notes), actions=actions, outputs=outputs)

    def _wish(self, order: Order, user: User) -> Wish:
        possible = {
            "pending": [self._cancel, self._move, self._pay_otherwise, self._change_item],
            "delivered": [self._give_back, self._exchange_item, self._ask],
        }
        wish = self.chance.choice(possible.get(order["status"], [self._ask]))
        return wish(order, user)

    def _ask(self, order: Order, user: User) -> Wish:
        return (
            f"You want to know what you paid for order {order['order_id']}.",
            None,
            f"{total(order['items']):.2f}",
        )

    def _cancel(self, order: Order, user: User) -> Wish:
        reason = self.chance.choice(["no longer needed", "ordered by mistake"])
        words = f"Cancel order {order['order_id']}: {reason}."
        return words, _call("cancel_pending_order", order, reason=reason), None

    def _move(self, order: Order, user: User) -> Wish:
        address = new_address(self.chance)
        words = f"Order {order['order_id']} shall go to {', '.join(str(part) for part in address.values())}."
        return words, _call("modify_pending_order_address", order, **address), None

    def _pay_otherwise(self, order: Order, user: User) -> Wish:
        paid_with = order["payment_history"][0]["payment_method_id"]
        other = next(method for method in user["payment_methods"] if method != paid_with)
        words = f"You want to pay order {order['order_id']} with {other} instead."
        return words, _call("modify_pending_order_payment", order, payment_method_id=other), None

    def _change_item(self, order: Order, user: User) -> Wish:
        return self._swap("modify_pending_order_items", "change", order, user)

    def _exchange_item(self, order: Order, user: User) -> Wish:
        return self._swap("exchange_delivered_order_items", "exchange", order, user)

    def _swap(self, tool: str, verb: str, order: Order, user: User) -> Wish:
        item = self.chance.choice(order["items"])
        variants = self.shop.products[item["product_id"]]["variants"].values()
        others = [new for new in variants if new["available"] and new["item_id"] != item["item_id"]]
        if not others:
            return (
                self._give_back(order, user) if order["status"] == "delivered" else self._cancel(order, user)
            )
        new, method = self.chance.choice(others), self.chance.choice(list(user["payment_methods"]))
        ids: dict[str, Any] = {"item_ids": [item["item_id"]], "new_item_ids": [new["item_id"]]}
        words = (
            f"In order {order['order_id']}, {verb} the {item['name']} to "
            f"{', '.join(new['options'].values())}, via {method}."
        )
        return words, _call(tool, order, **ids, payment_method_id=method), None

    def _give_back(self, order: Order, user: User) -> Wish:
        items = self.chance.sample(order["items"], self.chance.randrange(1, len(order["items"]) + 1))
        method = order["payment_history"][0]["payment_method_id"]
        words = (
            f"Return the {' and the '.join(item['name'] for item in items)} of order {order['order_id']}, "
        )
        ids = [item["item_id"] for item in items]
        call = _call("return_delivered_order_items", order, item_ids=ids, payment_method_id=method)
        return f"{words}refund to {method}.", call, None


def _call(name: str, order: Order, **arguments: Any) -> Action:
    return Action(name=name, kwargs={"order_id": order["order_id"], **arguments})


def demo_recordings(seed: int, size: int) -> list[Recording]:
    """`size` recordings, all different: a wish can be for any address, so they do not run out."""
    wishes = Wishes(demo_shop(seed), random.Random(f"wishes {seed}"))
    found: dict[str, Recording] = {}
    while len(found) < size:
        made = wishes.recording()
        found.setdefault(made.instruction, made)
    return list(found.values())
