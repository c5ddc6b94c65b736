"""Where the standard library would reach for the program on this side, it is sent to the other one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module, util
from typing import Any

from .link import Link
from .standins import is_remote
from .tools import tell
from .walls import ProgramModules

_ABOUT_OBJECTS: dict[str, tuple[str, ...]] = {
    "dataclasses": ("asdict", "astuple", "fields", "is_dataclass", "replace"),
    "inspect": ("getdoc", "getmembers", "getsource", "isabstract", "iscoroutinefunction", "signature"),
    "json": ("dumps",),
    "typing": ("get_type_hints",),
}
"""Functions that look into an object: into the program's, over there."""
_STARTING = {"os": ("system",), "runpy": ("run_module", "run_path"), "subprocess": ("Popen",)}
"""What starts a program: in the program's sandbox."""


def install(link: Link, program: ProgramModules, root: str) -> None:
    for module, names in _STARTING.items():
        if module in sys.modules:
            for name in names:
                setattr(sys.modules[module], name, _there(link, module, name))
    for module, names in _ABOUT_OBJECTS.items():
        if module in sys.modules:
            for name in names:
                here = getattr(sys.modules[module], name)
                setattr(sys.modules[module], name, _either(here, _there(link, module, name)))
    util.spec_from_file_location = _from_file(util.spec_from_file_location, program, root)
    tempfile.tempdir = os.path.join(root, ".tmp")
    os.makedirs(tempfile.tempdir, exist_ok=True)
    if "unittest.mock" in sys.modules:
        _watch_mock(sys.modules["unittest.mock"], link)


def _there(link: Link, module: str, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        function = link.ask("getattr", link.ask("import", module), name)
        return function(*args, **kwargs)

    return call


def _either(here: Callable[..., Any], there: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return (there if args and is_remote(args[0]) else here)(*args, **kwargs)

    return call


def _from_file(here: Callable[..., Any], program: ProgramModules, root: str) -> Any:
    """`spec_from_file_location`: a file of the workspace is loaded by the program."""

    def find(name: str, location: Any = None, **options: Any) -> Any:
        path = os.path.abspath(location) if location is not None else ""
        if not path.startswith(root + "/"):
            return here(name, location, **options)
        return program.spec_of_file(name, path)

    return find


def _watch_mock(mock: Any, link: Link) -> None:
    """`mock.patch` of a standard module: the program sees it too."""
    patch = mock._patch
    enter, leave = patch.__enter__, patch.__exit__

    def entered(self: Any) -> Any:
        result = enter(self)
        self._palaestra_told = tell(link, self.target, self.attribute, getattr(self.target, self.attribute))
        return result

    def left(self: Any, *error: Any) -> Any:
        if getattr(self, "_palaestra_told", False):
            link.ask("restore")
        return leave(self, *error)

    patch.__enter__, patch.__exit__ = entered, left


def load_early(names: Any) -> None:
    """Import standard modules that the suite will: once, before the fork for each test."""
    for name in names:
        with suppress(ImportError):  # an image may lack parts of the library: the test will say so
            import_module(name)
