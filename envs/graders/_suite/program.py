"""The program's half: it imports the program, does what the suite's half asks, and answers.

Nothing here is to be trusted: the program shares this process and can change all of it. It has the arguments
of the calls and no more. What it can forge is its own answers.

    keeper ──fork──> one session (one test of the suite) ──frames──> the suite's half
"""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from .borrowed import Lent, Printed, Stdin, signature, trait
from .operations import OPERATIONS, traits
from .tree import Tree
from .wire import MUTABLE, Codec, Frame, Frames, kind_of, pack, same


class Session:
    """One test's worth of the program, in a process of its own."""

    def __init__(self, frames: Frames, send: Callable[[bytes], None], root: str, has_files: bool) -> None:
        self._frames = frames
        self._send = send
        self._codec = Codec(root, self._lend, self._borrow)
        self._tree = Tree(root) if has_files else None
        self._numbers: dict[int, int] = {}
        self._objects: list[Any] = []
        self._described: set[int] = set()
        self._borrowed: dict[int, Any] = {}
        self._asked = 0
        self._printed = [Printed(1), Printed(2)]
        self._thread = threading.get_ident()

    def serve(self) -> None:
        """Answer until the suite's half says that it is done."""
        while self._step() is None:
            pass

    def _step(self) -> Any:
        """The next frame: a question is answered here, an answer returned."""
        frame = self._frames.next()
        if "re" in frame:
            return frame
        if frame["op"] == "end":
            self._send(pack({"re": frame["n"]}))
            return frame
        process = os.getpid()
        known = set(self._described)
        try:
            reply = self._do(frame)
            data = pack({"re": frame["n"], **self._about(), **reply})
        except BaseException as error:
            self._described = known
            data = pack({"re": frame["n"], **self._about(), "error": self._error(error)})
        if os.getpid() != process:
            os._exit(1)  # a child that came back from a fork: its parent answers
        self._send(data)
        return None

    def _do(self, frame: Frame) -> Frame:
        self._settle(frame)
        args = [self._codec.decode(item) for item in frame["args"]]
        places: dict[tuple[int, Any], Any] = {}
        if frame["op"] == "call":
            for at, group in ((1, enumerate(args[1])), (2, args[2].items())):
                places.update(((at, key), item) for key, item in group if type(item) in MUTABLE)
        before = {place: self._codec.encode(item) for place, item in places.items()}
        value = OPERATIONS[frame["op"]](*args)
        reply: Frame = {}
        back = [[*place] for place, item in places.items() if item is value]
        reply["value"] = ["a", *back[0]] if back else self._encode(value)
        after = {place: self._codec.encode(item) for place, item in places.items()}
        reply["changed"] = [
            [*place, after[place]] for place in places if not same(before[place], after[place])
        ]
        return reply

    def _encode(self, value: Any) -> Any:
        try:
            return self._codec.encode(value)
        except RecursionError:
            # It holds itself, or is very deep: it stays here.
            return self._lend(value)

    def _settle(self, frame: Frame) -> None:
        """Take over what the suite's half has changed around both: files, directory, variables, sys.argv."""
        if self._tree is not None and frame.get("files"):
            self._tree.apply(frame["files"])
        if frame.get("around"):
            around = self._codec.decode(frame["around"])
            os.chdir(around["cwd"])
            for name in set(os.environ) - set(around["env"]):
                del os.environ[name]
            os.environ.update(around["env"])
            sys.argv = list(around["argv"])

    def _about(self) -> Frame:
        """What goes along with every answer: printed text and changed files."""
        about: Frame = {"printed": [printed.take() for printed in self._printed]}
        if self._tree is not None:
            about["files"] = self._tree.changes()
        return about

    def ask(self, op: str, *args: Any) -> Any:
        """Ask the suite's half, in the middle of answering it."""
        if threading.get_ident() != self._thread:
            raise RuntimeError("an object of the suite works in the thread that was called, and in no other")
        self._asked += 1
        question = {"n": self._asked, "op": op, "args": [self._codec.encode(item) for item in args]}
        self._send(pack({**self._about(), **question}))
        while True:
            frame = self._step()
            if frame is not None:
                break
        self._settle(frame)
        if "error" in frame:
            raise self._raised(frame["error"])
        return self._codec.decode(frame["value"])

    def _number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._numbers[id(value)]

    def _lend(self, value: Any) -> list[Any]:
        if isinstance(value, Lent):
            return ["o", value.__dict__["_lent"][1]]
        if isinstance(value, type):
            return ["c", self._class(value)]
        if isinstance(value, BaseException):
            return ["x", self._error(value)]
        return ["r", self._number(value), self._class(kind_of(value))]

    def _class(self, kind: type) -> list[Any]:
        """Its number, and what it is when that is new to the other side."""
        number = self._number(kind)
        if number in self._described:
            return [number]
        self._described.add(number)
        facts = {
            "name": kind.__name__,
            "qualname": kind.__qualname__,
            "module": str(kind.__module__),
            "doc": kind.__doc__ if isinstance(kind.__doc__, str) else None,
            "traits": traits(kind),
            "bases": [self._class(base) for base in kind.__bases__ if base is not object],
        }
        return [number, facts]

    def _borrow(self, tag: str, parts: list[Any]) -> Any:
        if tag == "o":
            return self._objects[parts[0]]
        if tag == "x":
            return self._raised(parts[0])
        if tag == "std":
            value: Any = OPERATIONS["import"](parts[0])
            for name in filter(None, parts[1].split(".")):
                value = getattr(value, name)
            return value
        number, facts = parts
        if number not in self._borrowed:
            methods: Any = {name: trait(name) for name in facts.pop("traits")}
            if "parameters" in facts:
                facts.update(signature(facts.pop("parameters")))
            kind = type(facts["__name__"], (Lent,), methods)
            self._borrowed[number] = kind(self.ask, number, facts)
        return self._borrowed[number]

    def _error(self, error: BaseException) -> Frame:
        mine = getattr(error, "_lent_error", None)
        if mine is not None:
            return {"mine": mine}
        state = {name: self._encode(item) for name, item in vars(error).items() if name[:1] != "_"}
        cause = error.__cause__
        return {
            "self": [self._number(error), self._class(type(error))],
            "args": [self._encode(item) for item in error.args],
            "text": _text(error),
            "state": state,
            "cause": None if cause is None else self._error(cause),
        }

    def _raised(self, error: Frame) -> BaseException:
        """An error of the suite's half, as it is here."""
        if "o" in error:
            own: BaseException = self._objects[error["o"]]
            return own
        raised: Any = BaseException.__new__(getattr(builtins, error["type"]))
        raised.args = tuple(self._codec.decode(item) for item in error["args"])
        raised._lent_error = error["number"]
        found: BaseException = raised
        return found


def _text(error: BaseException) -> str:
    try:
        return str(str(error))
    except Exception:
        return ""


def main(root: str) -> None:
    """The keeper: a process for each session, and word of how it ended."""
    source, target, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    def send(data: bytes) -> None:
        while data:
            data = data[os.write(target, data) :]

    frames = Frames(lambda: os.read(source, 1 << 16))
    sys.path[:0] = [root, os.path.join(root, "src")]
    while True:
        try:
            opening = frames.next()
        except EOFError:
            return
        if opening["op"] != "open":
            continue  # for a session that ended by itself
        pid = os.fork()
        if pid == 0:
            try:
                _be_session(frames, send, root, opening)
            finally:
                os._exit(1)
        status = os.waitpid(pid, 0)[1]
        how = f"with signal {status & 127}" if status & 127 else f"with exit code {status >> 8}"
        send(pack({"gone": how}))


def _be_session(frames: Frames, send: Callable[[bytes], None], root: str, opening: Frame) -> None:
    session = Session(frames, send, root, opening["has_files"])
    sys.stdin = Stdin(session.ask)
    send(pack({"re": opening["n"]}))
    session.serve()
    os._exit(0)
