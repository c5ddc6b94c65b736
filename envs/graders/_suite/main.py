"""The suite's half: it never runs a line of the program.

host ──messages──> main ──fork──> one test ──"C" messages──> host ──> program
                    └──"V": a verdict, under the nonce of its order──> host
"""

from __future__ import annotations

import json
import marshal
import os
import sys
import traceback
import types
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from . import shim
from .cases import collect, fixtures_of
from .link import Forged, Gone, Link
from .outcomes import Skipped
from .patching import install, load_early
from .running import FAILED, PASSED, SKIPPED, Outcome, run, told
from .walls import ProgramModules, SuiteFiles, build
from .wire import Frames

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = 11
"""Bytes before a message: its kind and, in decimal, its length."""


class Host:
    """Messages to and from the host. What a test prints goes elsewhere."""

    def __init__(self) -> None:
        self._source, self._target, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(null, descriptor)

    def receive(self) -> tuple[str, bytes]:
        """("", b"") at the end."""
        head = self._exactly(HEAD)
        return (chr(head[0]), self._exactly(int(head[1:]))) if head else ("", b"")

    def send(self, kind: str, data: bytes) -> None:
        data = b"%s%010d" % (kind.encode(), len(data)) + data
        while data:
            data = data[os.write(self._target, data) :]

    def from_program(self) -> bytes:
        """A piece of what the program's half wrote; b"" when it is gone."""
        kind, data = self.receive()
        return data if kind == "P" else b""

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = os.read(self._source, size)
            if not part:
                return b""
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def main(root: str) -> None:
    trusted = [entry for entry in sys.path if not (root + "/").startswith(entry.rstrip("/") + "/")]
    host = Host()
    suite: dict[str, Any] = marshal.loads(host.receive()[1])
    sys.argv = ["pytest"]
    pytest = types.ModuleType("pytest")
    vars(pytest).update((name, getattr(shim, name)) for name in shim.__all__)
    sys.modules["pytest"] = pytest
    load_early(suite["imports"])
    files = SuiteFiles(suite["sources"], root)
    while True:
        kind, data = host.receive()
        if not kind:
            return
        if kind == "T":
            order = marshal.loads(data)
            verdict = _apart(partial(_test, order, suite, files, host, root, trusted))
            host.send("V", json.dumps({"nonce": order["nonce"], "id": order["id"], **verdict}).encode())


def _apart(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns, run in a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(1, 2)
        try:
            verdict = work()
        except BaseException:
            verdict = _no_verdict(traceback.format_exc()[-400:])
        data = json.dumps(verdict).encode()
        while data:
            data = data[os.write(writer, data) :]
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    try:
        found: dict[str, Any] = json.loads(text)
        return found
    except ValueError:
        return _no_verdict(f"with status {status}")


def _no_verdict(text: str) -> dict[str, Any]:
    return {"kind": FAILED, "text": f"the suite's own process ended: {text}", "is_clean": False, "found": []}


def _test(
    order: dict[str, Any],
    suite: dict[str, Any],
    files: SuiteFiles,
    host: Host,
    root: str,
    trusted: list[str],
) -> dict[str, Any]:
    link = Link(
        Frames(host.from_program),
        lambda data: host.send("C", data),
        root,
        modules=files.names,
        data=suite["data"],
        hidden=[*suite["sources"], *suite["data"]] if suite["has_files"] else None,
    )
    only = suite["program"]
    program = ProgramModules(link, None if only is None else set(only), files.bound)
    found: list[str] = []
    guard = None
    try:
        link.open()
        install(link, program, root)
        guard = build(files, program, trusted)
        outcome = _play(order, files, suite, link, root, found)
    except BaseException as error:
        outcome = Outcome(SKIPPED if isinstance(error, Skipped) else FAILED, told(error, order["path"]))
    with suppress(Gone, Forged):  # which it remembers
        link.close()
    if link.forged:
        outcome = Outcome("forged", link.forged)
    elif link.broken:
        outcome = Outcome("ended", link.broken)
    elif guard is not None and guard.refused:
        outcome = Outcome("refused", guard.refused)
    return {"kind": outcome.kind, "text": outcome.text, "is_clean": link.is_closed, "found": found}


def _play(
    order: dict[str, Any], files: SuiteFiles, suite: dict[str, Any], link: Link, root: str, found: list[str]
) -> Outcome:
    """Run every case that the order's id means; the first that did not pass is the outcome."""
    path: str = order["path"]
    shared: dict[str, Any] = {}
    parts = path.split("/")[:-1]
    for at in range(len(parts) + 1):
        conftest = "/".join([*parts[:at], "conftest.py"])
        if conftest in suite["sources"]:
            shared.update(fixtures_of(files.load(conftest)))
    cases = collect(path, files.load(path), shared)
    found.extend(dict.fromkeys(case.base for case in cases))
    wanted = [case for case in cases if order["id"] in (case.id, case.base)]
    wanted = wanted or [case for case in cases if case.base.startswith(order["id"] + "::")]
    if not wanted:
        return Outcome("missing", f"the file has {found!r:.200}")
    for case in wanted:
        outcome = run(case, link, root)
        if outcome.kind != PASSED:
            return Outcome(outcome.kind, f"{case.id}: {outcome.text}")
    return Outcome(PASSED)
