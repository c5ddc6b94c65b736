"""The two sandboxes of a suite: starts what runs in each, and carries bytes from one to the other.

    suite ──"C" bytes──> here ──bytes──> program ──bytes──> here ──"P" bytes──> suite
      └────"V" verdict──> here

What the program writes is wrapped before the suite's half sees it, so none of it can pass for an order.
"""

import asyncio
import json
import marshal
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from ...sandboxes import Sandbox
from ...sandboxes.job import Job
from ..errors import Tampered
from .suite_text import INSIDE

SILENT = "no verdict"
HEAD = 11
"""Bytes before a message: its kind, and its length in decimal."""
MAX_ANSWERS = 1 << 26
"""Bytes that a program may write for one test."""
_LAST_WORDS = 400
_SHARED = ("wire", "tree", "operations")
_SUITE = (
    *_SHARED,
    "standins",
    "special",
    "lending",
    "mirrors",
    "link",
    "outcomes",
    "approx",
    "marks",
    "tools",
    "walls",
)
_SUITE_HALF = (*_SUITE, "patching", "cases", "running", "shim", "main")
_PROGRAM_HALF = (*_SHARED, "borrowed", "program")
_BOOT = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import marshal, os, types
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or sys.exit("no order")
    return data
package = sys.modules["_suite"] = types.ModuleType("_suite")
package.__path__ = []
for name, text in marshal.loads(read(int(read(10)))):
    module = sys.modules["_suite." + name] = types.ModuleType("_suite." + name)
    module.__package__ = "_suite"
    setattr(package, name, module)
    exec(compile(text, "<suite " + name + ">", "exec"), vars(module))
module.main(os.getcwd())
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the suite's half says of one test."""

    kind: str = SILENT
    """"passed", or how it did not."""
    text: str = ""
    is_clean: bool = False
    """Both halves are ready for the next test."""
    found: tuple[str, ...] = ()
    """The tests of its file, without parameters."""


class Halves:
    """Both programs, once they have started."""

    def __init__(self, suite: Job, program: Job) -> None:
        self._suite, self._program = suite, program
        self._verdicts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._room = 0
        self._words = b""

    @classmethod
    @asynccontextmanager
    async def started(
        cls, suite_box: Sandbox, program_box: Sandbox, setting: Mapping[str, Any]
    ) -> AsyncGenerator[Self, None]:
        """`setting` is what `_suite/main.py` is told first."""
        halves = cls(await _start(suite_box, _SUITE_HALF), await _start(program_box, _PROGRAM_HALF))
        pumps = [asyncio.create_task(halves._pump_suite()), asyncio.create_task(halves._pump_program())]
        try:
            await halves._suite.send(_message("S", marshal.dumps(dict(setting), 4)))
            yield halves
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
        # Not after an error, which ends the sandboxes.
        await asyncio.gather(halves._suite.kill(), halves._program.kill())

    async def verdict(self, id: str) -> Verdict:
        """Run one test. Raises `Tampered` for a verdict that is not under this order's nonce."""
        order = {"path": id.partition("::")[0], "id": id, "nonce": (nonce := secrets.token_hex(16))}
        self._room = MAX_ANSWERS
        await self._suite.send(_message("T", marshal.dumps(order, 4)))
        data = await self._verdicts.get()
        if isinstance(data, Exception):
            raise data
        if data is None:
            return Verdict(text=f"the suite's half ended: {self._words.decode(errors='replace').strip()}")
        try:
            said = json.loads(data)
            if said["nonce"] != nonce or said["id"] != id:
                raise ValueError("it is another test's")
            found = tuple(map(str, said["found"]))
            return Verdict(
                kind=said["kind"], text=said["text"], is_clean=said["is_clean"] is True, found=found
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Tampered(f"a verdict that the suite's half did not write: {data!r:.200}") from error

    async def _pump_suite(self) -> None:
        """Verdicts to the queue, questions to the program; then None, or what went wrong."""
        ending: Exception | None = None
        try:
            await self._pass_on()
        except Exception as error:  # every kind: it is raised again where the verdict is awaited
            ending = error
        self._verdicts.put_nowait(ending)

    async def _pass_on(self) -> None:
        buffer = bytearray()
        async for chunk in self._suite.chunks():
            if chunk.stream == "stderr":
                self._words = (self._words + chunk.data)[-_LAST_WORDS:]
                continue
            buffer += chunk.data
            while len(buffer) >= HEAD and len(buffer) >= HEAD + (size := int(buffer[1:HEAD])):
                kind, data = chr(buffer[0]), bytes(buffer[HEAD : HEAD + size])
                del buffer[: HEAD + size]
                if kind == "V":
                    self._verdicts.put_nowait(data)
                else:
                    await self._program.send(data)

    async def _pump_program(self) -> None:
        """Its answers to the suite, as far as there is room for them, and word of its end."""
        try:
            async for chunk in self._program.chunks():
                if chunk.stream == "stdout":
                    self._room -= len(chunk.data)
                    if self._room < 0:
                        break
                    await self._suite.send(_message("P", chunk.data))
            await self._suite.send(_message("G", b""))
        except Exception as error:  # every kind, as above
            self._verdicts.put_nowait(error)


async def _start(box: Sandbox, names: tuple[str, ...]) -> Job:
    job = await box.start(["python3", "-s", "-E", "-c", _BOOT], stdin=None)
    await job.send(_package(names))
    return job


@cache
def _package(names: tuple[str, ...]) -> bytes:
    data = marshal.dumps([(name, (INSIDE / f"{name}.py").read_text()) for name in names], 4)
    return b"%010d" % len(data) + data


def _message(kind: str, data: bytes) -> bytes:
    return b"%s%010d" % (kind.encode(), len(data)) + data
