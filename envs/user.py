"""The user of a conversation, played by another policy."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .episode import StopReason
from .errors import OutOfBudget
from .message import AssistantMessage, Message, SystemMessage, ToolSpec, UserMessage
from .policy import Policy

STOP = "###STOP###"
GREETING = "Hello, how can I help you?"
RULES = f"""You play a customer who talks to a service agent.
- Write one message at a time, as the customer would, in words of your own.
- Give away only what the current step needs; do not tell everything at once.
- Make nothing up: what the notes below do not say, you do not know or remember.
- When what you came for is settled, or the agent cannot help you further, write {STOP} and nothing else."""


class UserSimulator:
    """A policy in the user's place. It reads the notes and the conversation, with the roles turned round.

    >>> user = UserSimulator(ScriptedUser("I'd like to cancel order 7."), notes="")
    >>> await user.answer("Hello, how can I help you?")
    "I'd like to cancel order 7."
    >>> await user.answer("Order 7 is cancelled.") is None
    True
    """

    def __init__(self, policy: Policy, *, notes: str, rules: str = RULES, stop: str = STOP) -> None:
        """`rules` and `notes` (who it is, what it wants) are the policy's system message; the agent never
        sees them. A message with `stop` in it ends the conversation."""
        self._policy, self._stop = policy, stop
        self._heard: list[Message] = [SystemMessage(f"{rules}\n\n{notes}".strip())]

    async def answer(self, said: str) -> str | None:
        """What the user says to the agent's words; None when the conversation is over.

        That a conversation has outgrown the simulator ends it too: otherwise an agent could have an episode
        thrown away by talking on.
        """
        self._heard.append(UserMessage(said))
        try:
            reply = await self._policy(tuple(self._heard), ())
        except OutOfBudget as error:
            if error.reason is StopReason.CONTEXT and len(self._heard) > 2:
                return None
            raise
        self._heard.append(AssistantMessage(reply.content))
        return None if self._stop in reply.content else reply.content


@dataclass(frozen=True, slots=True)
class ScriptedUser:
    """A user without a model: says all it wants at once, agrees whenever it is asked, and then stops."""

    request: str
    consent: str = "Yes."

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        if not any(isinstance(message, AssistantMessage) for message in messages):
            return AssistantMessage(self.request)
        # Not "?" alone: a link has one in its middle.
        is_asked = re.search(r"\?(\s|$)", messages[-1].content)
        return AssistantMessage(self.consent if is_asked else STOP)
