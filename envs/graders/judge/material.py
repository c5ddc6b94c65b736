"""What a judge gets to read."""

import json
from typing import Any, Literal

from ...episode import Episode
from ...message import AssistantMessage, Message
from ...task import Task
from .fence import cut, inert


def section(title: str, text: str, max_chars: int) -> tuple[str, str]:
    """(title, text as the judge may see it)."""
    return title, inert(cut(text, max_chars))


def task_sections(task: Task, max_chars: int) -> list[tuple[str, str]]:
    """The question, and the reference where there is one: a judge is no model in training."""
    sections = [section("QUESTION", task.prompt_text, max_chars)]
    if task.reference is not None:
        sections.append(section("REFERENCE", as_text(task.reference), max_chars))
    return sections


def as_text(value: Any) -> str:
    """
    >>> as_text({"answer": 4})
    '{"answer": 4}'
    """
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def answer_of(episode: Episode, reads: Literal["answer", "conversation"]) -> str:
    """The last message, or the whole of what happened; "" where the policy itself said and did nothing."""
    if reads == "answer":
        return episode.answers[-1].content if episode.answers else ""
    if not any(said.content or said.tool_calls for said in episode.answers):
        return ""
    return "\n\n".join(_line(message) for message in episode.messages[episode.num_opening :])


def thoughts_of(episode: Episode) -> str:
    return "\n\n".join(said.reasoning for said in episode.answers if said.reasoning)


def _line(message: Message) -> str:
    calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
    called = [f"calls {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})" for call in calls]
    return "\n".join((f"{message.role}: {message.content}", *called))
