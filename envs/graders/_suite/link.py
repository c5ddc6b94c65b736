"""The suite's end of the wire: it asks, makes stand-ins of what comes back, and answers in its turn.

What comes from the program is checked here. Evidence of a frame that no honest program writes is kept.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from .lending import Lender
from .mirrors import Mirrors, RemoteModule
from .standins import ANSWER, NAMED, is_remote, stub_of
from .tree import Tree
from .wire import MUTABLE, Codec, Frame, Frames, kind_of, pack


class Gone(BaseException):
    """The program's process ended in the middle of a test. `Link.broken` remembers, whoever catches this."""


class Forged(BaseException):
    """A frame that the program's half did not write."""


class Stopped(RuntimeError):
    """The program raised `StopIteration` from a call, which would end the suite's own loops in silence."""


class Link:
    """One session. `data` are the suite's own files: the program gets one when it is handed its name."""

    def __init__(
        self,
        frames: Frames,
        send: Callable[[bytes], None],
        root: str,
        *,
        modules: set[str],
        data: Iterable[str] = (),
        hidden: Iterable[str] | None = None,
    ) -> None:
        self._frames = frames
        self._send = send
        self._root = root
        self._lender = Lender(modules)
        self._mirrors = Mirrors(self, modules)
        self._codec = Codec(root, self._lend, self._borrow)
        self._data = set(data)
        self._tree = None if hidden is None else Tree(root, hidden)
        self._around = self._surroundings()
        self._lock = threading.RLock()
        self._asked = 0
        self._heard = 0
        self._trust = ANSWER
        self.raised: BaseException | None = None
        """The last error of the program that was raised here."""
        self.is_closed = False
        """Both ends agreed that the session is over, and nothing is on the wire."""
        self.broken = ""
        """How the program's process ended before the suite was done with it."""
        self.forged = ""
        """What came that its half cannot have sent."""

    def open(self) -> None:
        self._send(pack({"op": "open", "n": 0, "has_files": self._tree is not None}))
        self._receive(0)

    def close(self) -> None:
        """End the session. What is still on the wire afterwards, nobody sent in good faith."""
        if self.broken or self.forged:
            return
        self._asked += 1
        self._send(pack({"op": "end", "n": self._asked}))
        self._receive(self._asked)
        frame = self._next()
        if list(frame) != ["gone"] or self._frames.rest:
            self._forge(f"{frame!r:.100} {self._frames.rest!r:.100} behind the last answer")
        self.is_closed = True

    def call(self, function: Any, args: Any, kwargs: dict[str, Any], *, trust: str = ANSWER) -> Any:
        """Call it there. Lists, dicts and sets among the arguments change here as they did there."""
        try:
            return self.ask("call", function, list(args), kwargs, trust=trust)
        except StopIteration as error:
            raise Stopped("the program raised StopIteration") from error

    def ask(self, op: str, *args: Any, trust: str = ANSWER) -> Any:
        with self._lock:
            data = [self._codec.encode(item) for item in args]
            self._asked += 1
            number = self._asked
            self._send(pack({**self._about(repr(data)), "n": number, "op": op, "args": data}))
            frame = self._receive(number)
            held, self._trust = self._trust, trust
            try:
                return self._taken(frame, args)
            finally:
                self._trust = held

    def _taken(self, frame: Frame, args: Any) -> Any:
        error: BaseException | None = None
        result: Any = None
        with _Checked(self):
            for place, key, item in frame.get("changed", ()):
                update(args[place][key], self._codec.decode(item))
            if "error" in frame:
                error = self._error(frame["error"])
            elif kind_of(frame["value"]) is list and frame["value"][0] == "a":
                result = args[frame["value"][1]][frame["value"][2]]
                if kind_of(result) not in MUTABLE:
                    raise TypeError(f"an argument of class {kind_of(result)!r} came back as itself")
            else:
                result = self._codec.decode(frame["value"])
        if error is not None:
            self.raised = error
            raise error
        return result

    def _receive(self, number: int) -> Frame:
        """The answer to that question; those of the program that come first are answered."""
        if self.broken or self.forged:
            raise Gone(self.broken or self.forged)
        while True:
            frame = self._next()
            if "op" in frame:
                self._serve(frame)
            elif frame.get("re") == number and type(frame["re"]) is int:
                return frame
            elif "gone" in frame:
                self.broken = f"ended {frame['gone']!s:.60}"
                raise Gone(self.broken)
            else:
                self._forge(f"no answer to question {number}: {frame!r:.100}")

    def _next(self) -> Frame:
        try:
            frame = self._frames.next()
        except EOFError:
            self.broken = "ended, and its keeper with it"
            raise Gone(self.broken) from None
        except (ValueError, RecursionError) as error:
            self._forge(f"no frame: {error!r:.100} {self._frames.rest!r:.100}")
        with _Checked(self):
            printed = [str(text) for text in frame.get("printed", ())]
            if self._tree is not None:
                self._tree.apply(dict(frame.get("files", {})))
        for stream, text in zip((sys.stdout, sys.stderr), printed):
            if text:
                stream.write(text)
        return frame

    def _serve(self, frame: Frame) -> None:
        """The program asks something of what it was handed."""
        self._heard += 1
        if frame.get("n") != self._heard:
            self._forge(f"question {frame.get('n')!r:.60} where {self._heard} is next")
        with _Checked(self):
            op = str(frame["op"])
            args = [self._codec.decode(item) for item in frame["args"]]
        try:
            reply = {"value": self._codec.encode(self._lender.answer(op, args))}
        except (Gone, Forged):
            raise
        except BaseException as error:
            reply = {"error": self._own_error(error)}
        self._send(pack({**self._about(repr(reply)), "re": self._heard, **reply}))

    def _about(self, text: str) -> Frame:
        """What goes along: files that changed here, and what else the program should find as it is here."""
        about: Frame = {}
        if self._tree is not None:
            named = {path for path in self._data if _names(text, path)}
            self._data -= named
            about["files"] = self._tree.changes(sorted(named))
        around = self._surroundings()
        if around != self._around:
            self._around = around
            about["around"] = self._codec.encode(around)
        return about

    def _surroundings(self) -> dict[str, Any]:
        return {"cwd": os.getcwd(), "env": dict(os.environ), "argv": list(sys.argv)}

    def _lend(self, value: Any) -> list[Any]:
        if is_remote(value) or isinstance(value, RemoteModule):
            return ["o", stub_of(value).number]
        if isinstance(value, BaseException):
            return ["x", self._own_error(value)]
        return self._lender.lend(value)

    def _borrow(self, tag: str, parts: list[Any]) -> Any:
        if tag == "o":
            return self._lender.home(parts[0])
        if tag == "c":
            return self._mirrors.kind(parts[0]) if self._trust == NAMED else self._mirrors.answer(parts[0])
        if tag == "x":
            return self._error(parts[0])
        if tag == "r":
            trust = ANSWER if self._trust == NAMED else self._trust
            return self._mirrors.stand_in(parts[0], parts[1], trust)
        raise ValueError(f"no value has the tag {tag!r}")

    def _error(self, error: Frame) -> BaseException:
        if "mine" in error:
            return self._lender.errors[int(error["mine"])]
        return self._mirrors.error(error, self._codec.decode)

    def _own_error(self, error: BaseException) -> Frame:
        if is_remote(error):
            return {"o": stub_of(error).number}
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        args = [self._codec.encode(item if type(item) in (int, str) else repr(item)) for item in error.args]
        return {"type": kind.__name__, "args": args, "number": self._lender.failed(error)}

    def _forge(self, what: str) -> NoReturn:
        self.forged = self.forged or what
        raise Forged(self.forged)


class _Checked:
    """Around what reads a frame: whatever goes wrong there, the program wrote a frame that it cannot have."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        is_ours = isinstance(error, (Gone, Forged, MemoryError))
        if error is not None and not is_ours and error is not self._link.raised:
            self._link.forged = self._link.forged or f"a frame that makes no sense: {error!r:.150}"
            raise Forged(self._link.forged) from error


def update(old: Any, new: Any) -> bool:
    """Make `old` equal to `new` in place, down to what did not change. False when it cannot be."""
    kind = kind_of(old)
    if kind is not kind_of(new) or kind not in MUTABLE:
        return False
    if kind is list:
        items: list[Any] = list(old)
        counts = Counter(map(id, items))
        for at, item in enumerate(new):
            if at < len(items) and _keeps(items[at], item, is_alone=counts[id(items[at])] == 1):
                new[at] = items[at]
        old[:] = new
    elif kind is dict:
        held: dict[Any, Any] = dict(old)
        old.clear()
        for key, item in dict(new).items():
            old[key] = held[key] if key in held and _keeps(held[key], item) else item
    elif kind is set:
        old.clear()
        old.update(new)
    else:
        old[:] = new
    return True


def _keeps(old: Any, new: Any, *, is_alone: bool = True) -> bool:
    """Whether the old item can stay: it is as the new one, or was made so."""
    if is_remote(old) or is_remote(new):
        return old is new
    if kind_of(old) is kind_of(new) and old == new:
        return True
    return is_alone and update(old, new)


def _names(text: str, path: str) -> bool:
    """Whether the text of a question names a file, or the directory that it lies in."""
    directory = os.path.dirname(path)
    return path in text or (bool(directory) and f"{directory}'" in text)
