"""The model's side of a conversation, as the environment sees it."""

from collections.abc import Sequence
from typing import Protocol

from .message import AssistantMessage, Message, ToolSpec


class Policy(Protocol):
    """An oracle, a chat endpoint, a trained policy, a user simulator: all the same one method."""

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        """The next message. May raise `OutOfBudget`; any other exception fails the episode."""
        ...
