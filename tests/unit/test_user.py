"""Users that are policies: what they are told, what they say, and when they leave."""

from collections.abc import Sequence

import pytest
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Message,
    OutOfBudget,
    ScriptedPolicy,
    ScriptedUser,
    StopReason,
    ToolSpec,
    UserSimulator,
)
from palaestra.envs.user import GREETING, RULES, STOP


class Remembering:
    """Says its lines and keeps what it was shown."""

    def __init__(self, *lines: str) -> None:
        self.policy, self.shown = ScriptedPolicy(lines), list[Sequence[Message]]()

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        assert not tools
        self.shown.append(messages)
        return await self.policy(messages, tools)


def conversation(user: UserSimulator, *said: str) -> list[str | None]:
    async def main() -> list[str | None]:
        return [await user.answer(text) for text in said]

    return run_async(main())


def test_the_policy_sees_the_notes_and_the_conversation_the_other_way_round() -> None:
    policy = Remembering("I want a refund.", "Order 7.")
    user = UserSimulator(policy, notes="You are Ada. Order 7 broke.")
    assert conversation(user, GREETING, "Which order?") == ["I want a refund.", "Order 7."]
    assert [(message.role, message.content) for message in policy.shown[-1]] == [
        ("system", f"{RULES}\n\nYou are Ada. Order 7 broke."),
        ("user", GREETING),
        ("assistant", "I want a refund."),
        ("user", "Which order?"),
    ]


def test_thoughts_of_the_policy_are_not_kept() -> None:
    thinking = ScriptedPolicy([AssistantMessage("Yes.", reasoning="the refund is mine")])
    assert conversation(UserSimulator(thinking, notes=""), GREETING) == ["Yes."]


@pytest.mark.parametrize("last", [STOP, f"Thanks! {STOP}"])
def test_the_stop_token_ends_the_conversation(last: str) -> None:
    user = UserSimulator(Remembering("Hi.", last), notes="")
    assert conversation(user, GREETING, "All done.") == ["Hi.", None]


def test_rules_and_stop_token_can_be_ones_own() -> None:
    policy = Remembering("[bye]")
    assert conversation(UserSimulator(policy, notes="n", rules="r", stop="[bye]"), "?") == [None]
    assert policy.shown[0][0].content == "r\n\nn"


class Small:
    """Its context holds two messages of the agent's."""

    def __init__(self, reason: StopReason, most: int) -> None:
        self.reason, self.most = reason, most

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        if len(messages) > self.most:
            raise OutOfBudget(self.reason)
        return AssistantMessage("Go on.")


def test_a_conversation_that_outgrows_the_simulator_is_over() -> None:
    user = UserSimulator(Small(StopReason.CONTEXT, 4), notes="")
    assert conversation(user, GREETING, "a long story", "and on") == ["Go on.", "Go on.", None]


@pytest.mark.parametrize(("reason", "most"), [(StopReason.CONTEXT, 0), (StopReason.MAX_TOKENS, 2)])
def test_a_simulator_that_cannot_answer_for_other_reasons_fails(reason: StopReason, most: int) -> None:
    user = UserSimulator(Small(reason, most), notes="")
    with pytest.raises(OutOfBudget):
        conversation(user, GREETING, "a long story")


def test_the_scripted_user_tells_all_agrees_to_questions_and_leaves() -> None:
    user = UserSimulator(ScriptedUser("Cancel order 7."), notes="")
    said = (GREETING, "Shall I cancel it?", "I see. (Sure?) Tell me", "See http://shop/?order=7 for it.")
    assert conversation(user, *said) == ["Cancel order 7.", "Yes.", None, None]
