"""What `check_env` looks for afterwards: secrets in the transcript, and resources that stayed."""

import asyncio
import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from .episode import Episode
from .message import AssistantMessage
from .task import Task
from .worker import Worker

CANARY = "canary-7c1f09d2"
NUMBER = 907_061_350_947
SHORTEST_SECRET = 12
"""Characters; a shorter value of `private` may stand in a question by chance."""
SETTLE_S = 3.0


def plant(task: Task) -> tuple[frozenset[str], Task]:
    """(what to look for, the task with its reference replaced by it and with one more private value)."""
    private = {**task.private, "canary": CANARY}
    planted = replace(task, reference=_poisoned(task.reference), private=private)
    return frozenset({CANARY, str(NUMBER)}), planted


def _poisoned(value: Any) -> Any:
    """The same shape with other leaves."""
    if _is_mapping(value):
        return {key: _poisoned(item) for key, item in value.items()}
    if _is_list(value):
        return type(value)(_poisoned(item) for item in value)
    if isinstance(value, str):
        return CANARY
    if isinstance(value, int | float) and not isinstance(value, bool):
        return type(value)(NUMBER)
    return value


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list | tuple)


class Secrets:
    """What the model must not read in episodes of one task."""

    def __init__(self, task: Task, canaries: frozenset[str]) -> None:
        found = {text for text in _texts(task.private) if len(text) >= SHORTEST_SECRET}
        self._secrets = canaries | {text for text in found if text not in task.prompt_text}

    def shown_in(self, episode: Episode) -> str | None:
        """Where a secret was shown that the policy had not said itself; None if nowhere."""
        offered = json.dumps([spec.to_openai() for spec in episode.tools])
        said = ""
        shown = [(None, offered), *((message, message.content) for message in episode.messages)]
        for number, (message, text) in enumerate(shown):
            if isinstance(message, AssistantMessage) and number > episode.num_opening:
                said += text + "".join(str(call.arguments) for call in message.tool_calls)
                continue
            for secret in self._secrets:
                if secret in text and secret not in said:
                    place = "a tool's description" if message is None else f"a message of the {message.role}"
                    return f"{secret[:80]!r} stands in {place}"
        return None


def long_texts(task: Task) -> set[str]:
    """What no file may hold: the texts in `private` and in the reference that stand nowhere by chance."""
    return {text for text in _texts([task.private, task.reference]) if len(text) >= SHORTEST_SECRET}


def _texts(value: Any) -> Iterator[str]:
    """Every string in a nested value, the keys of mappings left out."""
    if isinstance(value, str):
        yield value
    elif _is_mapping(value):
        for item in value.values():
            yield from _texts(item)
    elif _is_list(value):
        for item in value:
            yield from _texts(item)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What this process holds at one moment."""

    processes: frozenset[int]
    """Living descendants."""
    tasks: frozenset[int]
    threads: frozenset[int]
    num_files: int
    """Open file descriptors."""

    @classmethod
    def now(cls) -> "Resources":
        own = asyncio.current_task()
        return cls(
            processes=frozenset(_descendants(os.getpid())),
            tasks=frozenset(id(task) for task in asyncio.all_tasks() if task is not own),
            # The threads of asyncio's and other pools stay for the next call.
            threads=frozenset(
                thread.native_id or 0 for thread in threading.enumerate() if "_" not in thread.name
            ),
            num_files=len(os.listdir("/proc/self/fd")),
        )

    @classmethod
    async def settled(cls, at_most: "Resources | None" = None) -> "Resources":
        """What is held once the ended have gone, which may take the kernel a moment."""
        Worker.end_idle()
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        found = cls.now()
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
            previous, found = found, cls.now()
            if found == previous and (at_most is None or not found.over(at_most)):
                break
        return found

    def over(self, before: "Resources") -> str:
        """What is held now and was not before, in words; "" for nothing."""
        counts = {
            "process(es)": len(self.processes - before.processes),
            "asyncio task(s)": len(self.tasks - before.tasks),
            "thread(s)": len(self.threads - before.threads),
            "open file(s)": self.num_files - before.num_files,
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count > 0)


def _descendants(pid: int) -> Iterator[int]:
    children: defaultdict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name) state ppid ...; the name may hold spaces and brackets
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if state != "Z":
            children[int(parent)].append(int(stat.parent.name))
    queue = list(children[pid])
    while queue:
        child = queue.pop()
        yield child
        queue += children[child]
