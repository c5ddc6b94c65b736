"""The sixteen tools on the demo shop: what they find, what they change, what they refuse."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from support import run_async

from palaestra.envs import AssistantMessage, ToolCall, ToolMessage
from palaestra.envs.catalog.retail.database import Database, Order, Shop, User
from palaestra.envs.catalog.retail.demo import demo_shop
from palaestra.envs.catalog.retail.tools import RetailTools
from palaestra.envs.catalog.retail.writes import WRITES


class Desk:
    """A conversation's tools, and the records to look at."""

    def __init__(self) -> None:
        self.env = RetailTools()
        self.env.database = Database(demo_shop(0))

    def call(self, name: str, **arguments: Any) -> ToolMessage:
        said = AssistantMessage(tool_calls=(ToolCall(id="c", name=name, arguments=arguments),))
        (answer,) = run_async(self.env.step(said)).observation.messages
        assert isinstance(answer, ToolMessage)
        return answer

    def does(self, name: str, **arguments: Any) -> str:
        answer = self.call(name, **arguments)
        assert not answer.is_error, answer.content
        return answer.content

    def refuses(self, name: str, **arguments: Any) -> str:
        before = deepcopy(self.env.database.changes())
        answer = self.call(name, **arguments)
        assert answer.is_error and self.env.database.changes() == before
        return answer.content

    def order(self, order_id: str) -> Order:
        return self.env.database.order(order_id)

    def method(self, order_id: str, source: str) -> str:
        user = self.env.database.user(self.order(order_id)["user_id"])
        return next(id for id, method in user["payment_methods"].items() if method["source"] == source)

    def balance(self, order_id: str) -> float:
        user = self.env.database.user(self.order(order_id)["user_id"])
        return user["payment_methods"][self.method(order_id, "gift_card")].get("balance", -1.0)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def find(is_it: Callable[[Order], bool]) -> str:
    return next(id for id, order in demo_shop(0).orders.items() if is_it(order))


def paid_by(order: Order) -> str:
    return order["payment_history"][0]["payment_method_id"]


def other_variant(order: Order, *, available: bool = True) -> tuple[str, str, float]:
    """(item, another variant of its product, what that costs more)."""
    for item in order["items"]:
        for new in demo_shop(0).products[item["product_id"]]["variants"].values():
            if new["available"] is available and new["item_id"] != item["item_id"]:
                return item["item_id"], new["item_id"], round(new["price"] - item["price"], 2)
    raise LookupError


PENDING_BY_CARD = find(lambda o: o["status"] == "pending" and paid_by(o).startswith("credit_card"))
PENDING_BY_GIFT = find(lambda o: o["status"] == "pending" and paid_by(o).startswith("gift_card"))
DELIVERED_BY_CARD = find(lambda o: o["status"] == "delivered" and paid_by(o).startswith("credit_card"))
DELIVERED_BY_GIFT = find(lambda o: o["status"] == "delivered" and paid_by(o).startswith("gift_card"))
ADDRESS = {
    "address1": "1 New Road",
    "address2": "",
    "city": "Graz",
    "state": "ST",
    "country": "EU",
    "zip": "1",
}


def test_there_are_sixteen_tools_and_seven_of_them_write() -> None:
    assert len(RetailTools.offered) == 16
    assert len(WRITES) == 7 and WRITES.keys() <= RetailTools.offered.keys()


def test_users_are_found_by_email_and_by_name_and_zip(desk: Desk) -> None:
    user_id, user = next(iter(demo_shop(0).users.items()))
    name, zip = user["name"], user["address"]["zip"]
    assert desk.does("find_user_id_by_email", email=user["email"].upper()) == user_id
    asked = {"first_name": name["first_name"].upper(), "last_name": name["last_name"], "zip": zip}
    assert desk.does("find_user_id_by_name_zip", **asked) == user_id
    assert "no user" in desk.refuses("find_user_id_by_email", email="nobody@example.com")
    assert "no user" in desk.refuses("find_user_id_by_name_zip", **{**asked, "zip": "0"})


def test_a_user_who_has_moved_is_found_by_the_new_zip(desk: Desk) -> None:
    user_id, user = next(iter(demo_shop(0).users.items()))
    desk.does("modify_user_address", user_id=user_id, **ADDRESS)
    asked = {"first_name": user["name"]["first_name"], "last_name": user["name"]["last_name"]}
    assert desk.does("find_user_id_by_name_zip", **asked, zip="1") == user_id
    assert desk.env.database.changes()["users"].keys() == {user_id}


def test_records_are_shown_and_unknown_ids_are_errors(desk: Desk) -> None:
    order = desk.order(PENDING_BY_CARD)
    assert order["items"][0]["item_id"] in desk.does("get_order_details", order_id=PENDING_BY_CARD)
    assert order["order_id"] in desk.does("get_user_details", user_id=order["user_id"])
    product = order["items"][0]["product_id"]
    assert '"variants"' in desk.does("get_product_details", product_id=product)
    assert product in desk.does("list_all_product_types")
    for tool, argument in (("order", "order_id"), ("user", "user_id"), ("product", "product_id")):
        assert "not found" in desk.refuses(f"get_{tool}_details", **{argument: "x"})
    assert desk.env.database.changes()["orders"] == {}


def test_cancelling_refunds_to_where_the_money_came_from(desk: Desk) -> None:
    before = desk.balance(PENDING_BY_GIFT)
    amount = desk.order(PENDING_BY_GIFT)["payment_history"][0]["amount"]
    desk.does("cancel_pending_order", order_id=PENDING_BY_GIFT, reason="no longer needed")
    order = desk.order(PENDING_BY_GIFT)
    assert (order["status"], order.get("cancel_reason")) == ("cancelled", "no longer needed")
    assert order["payment_history"][1]["transaction_type"] == "refund"
    assert desk.balance(PENDING_BY_GIFT) == pytest.approx(before + amount)
    assert "'cancelled'" in desk.refuses(
        "cancel_pending_order", order_id=PENDING_BY_GIFT, reason="no longer needed"
    )


def test_a_payment_moves_and_a_cancelled_order_refunds_only_the_last(desk: Desk) -> None:
    card, gift = (desk.method(PENDING_BY_GIFT, source) for source in ("credit_card", "gift_card"))
    before = desk.balance(PENDING_BY_GIFT)
    amount = desk.order(PENDING_BY_GIFT)["payment_history"][0]["amount"]
    assert "already" in desk.refuses(
        "modify_pending_order_payment", order_id=PENDING_BY_GIFT, payment_method_id=gift
    )
    desk.does("modify_pending_order_payment", order_id=PENDING_BY_GIFT, payment_method_id=card)
    assert desk.balance(PENDING_BY_GIFT) == pytest.approx(before + amount)
    assert "one payment" in desk.refuses(
        "modify_pending_order_payment", order_id=PENDING_BY_GIFT, payment_method_id=gift
    )
    desk.does("cancel_pending_order", order_id=PENDING_BY_GIFT, reason="ordered by mistake")
    assert desk.balance(PENDING_BY_GIFT) == pytest.approx(before + amount)
    last = desk.order(PENDING_BY_GIFT)["payment_history"][-1]
    assert last == {"transaction_type": "refund", "amount": amount, "payment_method_id": card}


def test_a_gift_card_must_hold_what_it_pays(desk: Desk) -> None:
    gift = desk.method(PENDING_BY_CARD, "gift_card")
    user = desk.env.database.user(desk.order(PENDING_BY_CARD)["user_id"])
    user["payment_methods"][gift]["balance"] = 0.01
    words = desk.refuses("modify_pending_order_payment", order_id=PENDING_BY_CARD, payment_method_id=gift)
    assert "holds 0.01, which is under" in words


def test_changed_items_are_paid_and_the_order_is_closed_to_changes(desk: Desk) -> None:
    old, new, more = other_variant(desk.order(PENDING_BY_CARD))
    before = desk.balance(PENDING_BY_CARD)
    swap = {"order_id": PENDING_BY_CARD, "item_ids": [old], "new_item_ids": [new]}
    gift = desk.method(PENDING_BY_CARD, "gift_card")
    desk.does("modify_pending_order_items", **swap, payment_method_id=gift)
    order = desk.order(PENDING_BY_CARD)
    assert new in [item["item_id"] for item in order["items"]]
    assert old not in [item["item_id"] for item in order["items"]]
    assert desk.balance(PENDING_BY_CARD) == pytest.approx(before - more)
    kind = "payment" if more > 0 else "refund"
    assert order["payment_history"][-1]["transaction_type"] == kind
    assert order["payment_history"][-1]["amount"] == pytest.approx(abs(more))
    for tool, arguments in (
        ("modify_pending_order_items", {**swap, "payment_method_id": gift}),
        ("modify_pending_order_address", {"order_id": PENDING_BY_CARD, **ADDRESS}),
        ("cancel_pending_order", {"order_id": PENDING_BY_CARD, "reason": "no longer needed"}),
    ):
        assert "pending (items modified)" in desk.refuses(tool, **arguments)


def test_an_address_of_an_order_is_not_the_users(desk: Desk) -> None:
    user_id = desk.order(PENDING_BY_CARD)["user_id"]
    desk.does("modify_pending_order_address", order_id=PENDING_BY_CARD, **ADDRESS)
    assert desk.order(PENDING_BY_CARD)["address"] == ADDRESS
    assert desk.env.database.user(user_id)["address"] != ADDRESS
    assert "'pending'" in desk.refuses("modify_pending_order_address", order_id=DELIVERED_BY_CARD, **ADDRESS)


def test_a_return_is_asked_for_once_and_paid_back_to_the_right_place(desk: Desk) -> None:
    items = [item["item_id"] for item in desk.order(DELIVERED_BY_GIFT)["items"]]
    card, gift = (desk.method(DELIVERED_BY_GIFT, source) for source in ("credit_card", "gift_card"))
    tool, order = "return_delivered_order_items", {"order_id": DELIVERED_BY_GIFT, "item_ids": items[::-1]}
    assert "or to a gift card" in desk.refuses(tool, **order, payment_method_id=card)
    assert "not found" in desk.refuses(tool, **order, payment_method_id="x")
    before = desk.balance(DELIVERED_BY_GIFT)
    desk.does(tool, **order, payment_method_id=gift)
    found = desk.order(DELIVERED_BY_GIFT)
    assert found["status"] == "return requested" and found.get("return_items") == sorted(items)
    assert desk.balance(DELIVERED_BY_GIFT) == before
    assert "return requested" in desk.refuses(tool, **order, payment_method_id=gift)


def test_an_exchange_is_recorded_and_nothing_is_paid_yet(desk: Desk) -> None:
    old, new, more = other_variant(desk.order(DELIVERED_BY_CARD))
    history = deepcopy(desk.order(DELIVERED_BY_CARD)["payment_history"])
    arguments = {
        "order_id": DELIVERED_BY_CARD,
        "item_ids": [old],
        "new_item_ids": [new],
        "payment_method_id": desk.method(DELIVERED_BY_CARD, "gift_card"),
    }
    desk.does("exchange_delivered_order_items", **arguments)
    order = desk.order(DELIVERED_BY_CARD)
    assert (order["status"], order.get("exchange_price_difference")) == ("exchange requested", more)
    assert (order.get("exchange_items"), order.get("exchange_new_items")) == ([old], [new])
    assert order["payment_history"] == history
    assert "exchange requested" in desk.refuses("exchange_delivered_order_items", **arguments)


def test_items_that_are_not_there_or_not_to_be_had_are_refused(desk: Desk) -> None:
    order = desk.order(DELIVERED_BY_CARD)
    old, new, _ = other_variant(order)
    foreign = next(
        item_id
        for product in demo_shop(0).products.values()
        if old not in product["variants"]
        for item_id in product["variants"]
    )
    card = desk.method(DELIVERED_BY_CARD, "credit_card")
    for old_ids, new_ids, words in (
        ([old, old], [new, new], "not that often"),
        (["1"], [new], "is not in order"),
        ([old], [], "1 item_ids for 0 new_item_ids"),
        ([], [], "item_ids is empty"),
        ([old], [foreign], "is no item of"),
    ):
        answer = desk.refuses(
            "exchange_delivered_order_items",
            order_id=DELIVERED_BY_CARD,
            item_ids=old_ids,
            new_item_ids=new_ids,
            payment_method_id=card,
        )
        assert words in answer


def test_what_is_not_available_is_refused(desk: Desk) -> None:
    def has_gone(order: Order) -> bool:
        products = demo_shop(0).products
        return order["status"] == "delivered" and any(
            not new["available"] and new["item_id"] != item["item_id"]
            for item in order["items"]
            for new in products[item["product_id"]]["variants"].values()
        )

    order_id = find(has_gone)
    old, new, _ = other_variant(desk.order(order_id), available=False)
    answer = desk.refuses(
        "exchange_delivered_order_items",
        order_id=order_id,
        item_ids=[old],
        new_item_ids=[new],
        payment_method_id=desk.method(order_id, "credit_card"),
    )
    assert "is not available" in answer


def test_the_same_item_twice_takes_two_lines_of_the_order() -> None:
    shop = demo_shop(0)
    order = deepcopy(shop.orders[PENDING_BY_CARD])
    old, new, more = other_variant(order)
    line = next(item for item in order["items"] if item["item_id"] == old)
    order["items"] = [line, deepcopy(line)]
    doubled = Shop(
        users=shop.users, products=shop.products, orders={PENDING_BY_CARD: order}, policy=shop.policy
    )
    desk = Desk()
    desk.env.database = Database(doubled)
    desk.does(
        "modify_pending_order_items",
        order_id=PENDING_BY_CARD,
        item_ids=[old, old],
        new_item_ids=[new, new],
        payment_method_id=paid_by(order),
    )
    found = desk.order(PENDING_BY_CARD)
    assert [item["item_id"] for item in found["items"]] == [new, new]
    assert found["payment_history"][-1]["amount"] == pytest.approx(abs(2 * more))


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2 + 2", "4.0"),
        ("(1.5 - 2) * -3", "1.5"),
        ("10 / 4", "2.5"),
        ("1 / 3", "0.33"),
        ("+7", "7.0"),
        ("2 ** 9", "512.0"),
        ("15% * $1,200", "180.0"),
    ],
)
def test_sums_are_calculated(desk: Desk, expression: str, result: str) -> None:
    assert desk.does("calculate", expression=expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 / 0",
        "9 ** 64 * 9 ** 64 * 9 ** 64 * 9 ** 64 * 9 ** 64 * 9 ** 64",
        "abs(1)",
        "__import__('os')",
        "1 +",
        "(" * 150,
        "1" * 501,
        "1 1",
        "()",
    ],
)
def test_what_is_no_sum_is_refused(desk: Desk, expression: str) -> None:
    assert desk.refuses("calculate", expression=expression)


def test_a_transfer_wants_a_reason_and_is_on_record(desk: Desk) -> None:
    assert "summary is empty" in desk.refuses("transfer_to_human_agents", summary=" ")
    assert not desk.env.is_transferred
    desk.does("transfer_to_human_agents", summary="wants to talk to a person")
    assert desk.env.is_transferred
    assert desk.does("think", thought="hm") == ""


def test_nothing_reaches_the_shop_itself(desk: Desk) -> None:
    digest = Shop(
        users=demo_shop(0).users, products=demo_shop(0).products, orders=demo_shop(0).orders, policy=""
    ).digest
    desk.does("cancel_pending_order", order_id=PENDING_BY_GIFT, reason="no longer needed")
    user: User = desk.env.database.user(desk.order(PENDING_BY_GIFT)["user_id"])
    user["email"] = "changed"
    again = Shop(
        users=demo_shop(0).users, products=demo_shop(0).products, orders=demo_shop(0).orders, policy=""
    ).digest
    assert digest == again and desk.env.database.changes()["orders"].keys() == {PENDING_BY_GIFT}
