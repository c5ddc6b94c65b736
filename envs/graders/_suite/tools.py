"""The fixtures that every suite has: `monkeypatch`, `capsys`, `tmp_path`, `request`."""

from __future__ import annotations

import io
import os
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from .link import Link
from .mirrors import RemoteModule

_NOTHING = object()


class MonkeyPatch:
    """Changes that are undone behind the test. What it changes in a standard module, the program sees too."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._undo: list[Callable[[], Any]] = []

    def setattr(self, target: Any, name: Any, value: Any = _NOTHING, raising: bool = True) -> None:
        if value is _NOTHING:
            target, name, value = (*_found(target), name)
        old = getattr(target, name, _NOTHING)
        if raising and old is _NOTHING:
            raise AttributeError(f"{target!r} has no attribute {name!r}")
        setattr(target, name, value)
        self._undo.append(lambda: delattr(target, name) if old is _NOTHING else setattr(target, name, old))
        if tell(self._link, target, name, value):
            self._undo.append(lambda: self._link.ask("restore"))

    def delattr(self, target: Any, name: Any = _NOTHING, raising: bool = True) -> None:
        if name is _NOTHING:
            target, name = _found(target)
        old = getattr(target, name, _NOTHING)
        if old is _NOTHING:
            if raising:
                raise AttributeError(name)
            return
        delattr(target, name)
        self._undo.append(lambda: setattr(target, name, old))

    def setitem(self, mapping: Any, key: Any, value: Any) -> None:
        old = mapping.get(key, _NOTHING)
        mapping[key] = value
        self._undo.append(lambda: mapping.pop(key) if old is _NOTHING else mapping.__setitem__(key, old))

    def delitem(self, mapping: Any, key: Any, raising: bool = True) -> None:
        if key not in mapping and not raising:
            return
        old = mapping[key]
        del mapping[key]
        self._undo.append(lambda: mapping.__setitem__(key, old))

    def setenv(self, name: str, value: Any, prepend: Any = None) -> None:
        old = os.environ.get(name)
        self.setitem(
            os.environ, name, str(value) if prepend is None or old is None else f"{value}{prepend}{old}"
        )

    def delenv(self, name: str, raising: bool = True) -> None:
        self.delitem(os.environ, name, raising)

    def chdir(self, path: Any) -> None:
        old = os.getcwd()
        os.chdir(path)
        self._undo.append(lambda: os.chdir(old))

    def syspath_prepend(self, path: Any) -> None:
        sys.path.insert(0, str(path))

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


def tell(link: Link, target: Any, name: str, value: Any) -> bool:
    """Have the program see a change of a standard module too, if it can be given the value."""
    is_standard = isinstance(target, types.ModuleType) and not isinstance(target, RemoteModule)
    if not is_standard or (target.__name__, name) in _OWN:
        return False
    try:
        link.ask("patch", target.__name__, name, value)
    except (TypeError, ImportError):  # nothing that can cross, or a module that is not there
        return False
    return True


_OWN = {("sys", name) for name in ("argv", "stdin", "stdout", "stderr", "path", "modules")}
"""What the two sides do not have in common, or have by other means."""


def _found(path: str) -> tuple[Any, str]:
    """What "a.b.c" means: (a.b, "c")."""
    parts = path.split(".")
    for at in range(len(parts) - 1, 0, -1):
        try:
            target: Any = import_module(".".join(parts[:at]))
        except ImportError:
            continue
        for name in parts[at:-1]:
            target = getattr(target, name)
        return target, parts[-1]
    raise ImportError(path)


class Captured(NamedTuple):
    out: Any
    err: Any


class CaptureFixture:
    """What both halves print: the program's text arrives with its answers."""

    def __init__(self) -> None:
        self._old = sys.stdout, sys.stderr
        self._start()

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    def _start(self) -> None:
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        self._streams = sys.stdout, sys.stderr

    def readouterr(self) -> Captured:
        texts: list[str] = []
        for stream in self._streams:
            texts.append(stream.getvalue())
            stream.seek(0)
            stream.truncate()
        return Captured(*texts)

    def stop(self) -> None:
        sys.stdout, sys.stderr = self._old


class Request:
    """`request`: what a fixture may know of the test."""

    param: Any

    def __init__(
        self, value: Callable[[str], Any], name: str, function: Any, instance: Any, module: Any
    ) -> None:
        self.getfixturevalue = value
        self.node = types.SimpleNamespace(name=name)
        self.function, self.instance, self.module = function, instance, module
        self.cls: Any = None if instance is None else type(instance)
        self.finalizers: list[Callable[[], Any]] = []

    def addfinalizer(self, function: Callable[[], Any]) -> None:
        self.finalizers.append(function)


class TempPathFactory:
    """`tmp_path_factory`: directories beneath the workspace, which the program sees too."""

    def __init__(self, root: str) -> None:
        self._base = pathlib.Path(root, ".tmp")

    def mktemp(self, name: str, numbered: bool = True) -> pathlib.Path:
        for number in range(1000):
            path = self._base / (f"{name}{number}" if numbered else name)
            if not path.exists():
                path.mkdir(parents=True)
                return path
        raise FileExistsError(str(self._base / name))

    def getbasetemp(self) -> pathlib.Path:
        return self._base


def make(name: str, link: Link, root: str, test: str) -> Iterator[Any]:
    """A fixture of that name, as a generator that yields it once. `KeyError` for none."""
    made: Iterator[Any] = _MAKERS[name](link, root, test)
    return made


def _monkeypatch(link: Link, root: str, test: str) -> Iterator[Any]:
    patch = MonkeyPatch(link)
    yield patch
    patch.undo()


def _capture(link: Link, root: str, test: str) -> Iterator[Any]:
    capture = CaptureFixture()
    yield capture
    capture.stop()


def _tmp_path(link: Link, root: str, test: str) -> Iterator[Any]:
    yield TempPathFactory(root).mktemp(re.sub(r"\W", "_", test)[:30])


def _tmp_path_factory(link: Link, root: str, test: str) -> Iterator[Any]:
    yield TempPathFactory(root)


_MAKERS: dict[str, Any] = {
    "capfd": _capture,
    "capsys": _capture,
    "monkeypatch": _monkeypatch,
    "tmp_path": _tmp_path,
    "tmp_path_factory": _tmp_path_factory,
}
FIXTURES = ("capfd", "capsys", "monkeypatch", "request", "tmp_path", "tmp_path_factory")
