"""Files and standard input go, and come, in parts: one large frame would fill the memory inside."""

import asyncio
from contextlib import suppress
from io import BytesIO
from typing import Any, Protocol

from ..errors import SandboxFileError, SandboxLost
from .calls import Answer, Receiver, heard

PART = 1 << 20
"""Bytes in one frame."""


class Sender(Protocol):
    """Where requests go."""

    def send(self, receiver: Receiver, head: dict[str, Any], *payload: bytes) -> int: ...


class Box(Sender, Protocol):
    """A sandbox, as these calls need it."""

    async def file_call(self, head: dict[str, Any], *payload: bytes) -> bytes: ...


async def write(box: Box, path: str, data: bytes) -> None:
    head = {"op": "write", "path": path}
    try:
        for at in range(0, len(data) or 1, PART):
            await box.file_call(head, data[at : at + PART])
            head["op"] = "append"
    except BaseException as error:
        is_refused = head["op"] == "write" and isinstance(error, SandboxFileError)
        if len(data) > PART and not is_refused:
            _remove_half(box, path)
        raise


def _remove_half(box: Box, path: str) -> None:
    """Half a file is worse than none."""
    answer = Answer()
    answer.future.add_done_callback(heard)
    with suppress(SandboxLost):
        box.send(answer, {"op": "remove", "path": path})


async def read(box: Box, path: str, max_bytes: int) -> bytes:
    content = BytesIO()
    while True:
        head = {"op": "read", "path": path, "max_bytes": max_bytes, "at": content.tell(), "most": PART}
        part = await box.file_call(head)
        content.write(part)
        if len(part) < PART:
            return content.getvalue()


async def feed(box: Sender, job: int, data: bytes, *, start: int = 0, is_last: bool) -> None:
    """Data from `start` on, each part when the program has taken the one before, however late that is."""
    at = start
    while True:
        part, at = data[at : at + PART], at + PART
        answer = Answer()
        box.send(answer, {"op": "feed", "job": job, "is_last": is_last and at >= len(data)}, part)
        await answer.future
        if at >= len(data):
            return


def feed_rest(box: Box, job: int, stdin: bytes) -> asyncio.Task[None] | None:
    """Send what of `stdin` did not go with the command. A lost sandbox is told by the program's own end."""
    if len(stdin) <= PART:
        return None
    task = asyncio.ensure_future(feed(box, job, stdin, start=PART, is_last=True))
    task.add_done_callback(heard)
    return task
