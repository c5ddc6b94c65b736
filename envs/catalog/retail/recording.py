"""A task as tau-bench writes it."""

from typing import Any

from pydantic import BaseModel


class Action(BaseModel):
    """One call of the recording. Whatever only reads may be left out of it."""

    name: str
    kwargs: dict[str, Any]


class Recording(BaseModel):
    """What a user wants, and what an agent did about it."""

    instruction: str
    """The user's notes: who it is and what it wants, told to whoever plays the user."""
    actions: list[Action]
    outputs: list[str] = []
    """What the agent must have told the user."""
