"""What a judge gets to read."""

import json
from typing import Any

from ...episode import Episode
from ...message import AssistantMessage, Message
from ...task import Task
from .fence import cut, inert, says_nothing


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


def answer_of(episode: Episode) -> str:
    """The last message; "" for one that says nothing, since it earns nothing."""
    answer = episode.answers[-1].content if episode.answers else ""
    return "" if says_nothing(answer) else answer


def turns_of(episode: Episode, max_chars: int) -> list[tuple[str, str]]:
    """What was said and done after the task, a section for each turn: none can pass for another's.

    Together at most about `max_chars`, shared evenly. None where the policy said and did nothing.
    """
    if all(says_nothing(said.content) and not said.tool_calls for said in episode.answers):
        return []
    heard = episode.messages[episode.num_opening :]
    texts = [_with_calls(message) for message in heard]
    room = max_chars if sum(map(len, texts)) <= max_chars else max_chars // len(texts)
    return [
        section(f"TURN {number} BY {message.role.upper()}", text, room)
        for number, (message, text) in enumerate(zip(heard, texts, strict=True), start=1)
    ]


def thoughts_of(episode: Episode) -> str:
    return "\n\n".join(said.reasoning for said in episode.answers if said.reasoning)


def _with_calls(message: Message) -> str:
    calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
    called = [f"calls {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})" for call in calls]
    return "\n".join((*([message.content] if message.content else []), *called))
