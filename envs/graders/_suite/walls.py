"""Keeps the program's text out of the suite's process: where modules come from, and what may become code.

No path of the workspace is on the way of an import, whatever a suite does to `sys.path`; a name that neither
the suite nor the standard library has is asked of the program, and stays there.
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
import types
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from typing import Any

from .link import Link
from .mirrors import RemoteModule
from .standins import is_remote, stub_of

_ALLOWED = (
    ("code.__new__", "importlib._bootstrap_external"),
    ("code.__new__", "types"),
    ("exec", "collections"),
    ("exec", "dataclasses"),
    ("exec", "unittest.mock"),
    ("marshal.loads", "importlib._bootstrap_external"),
)
"""Deeds of standard modules, which do them with text of their own."""
_NEVER = frozenset(("_pytest", "_suite", "palaestra", "py", "pytest", "unittest"))
"""Modules that the program is not asked for, whatever it has."""
_SAME = "_palaestra_same"
_FORBIDDEN = (
    *("code.__new__", "cpython.run", "ctypes.", "function.__new__", "marshal.", "os.exec", "os.fork"),
    *("os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pickle.find_class", "pty.", "subprocess."),
)


class Refused(BaseException):
    """The suite did what would run the program in its own process."""


class SuiteFiles(MetaPathFinder, Loader):
    """Finds and runs the suite's own modules, from memory."""

    def __init__(self, sources: Mapping[str, str], root: str) -> None:
        self._root = root
        self.codes: dict[str, Any] = {}
        self.bound: set[str] = set(dir(builtins))
        """Names that its files bind, and those of builtins."""
        self._paths: dict[str, str] = {}
        for path, text in sources.items():
            if path.endswith(".py"):
                tree = ast.parse(text, path)
                self.bound |= _bound(tree)
                self.codes[path] = _compiled(tree, os.path.join(root, path))
                for name in _names(path):
                    self._paths.setdefault(name, path)
        self.names: set[str] = set(self._paths)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        found = self._paths.get(name)
        if found is None:
            return None
        is_package = os.path.basename(found) == "__init__.py"
        spec = ModuleSpec(name, self, origin=os.path.join(self._root, found), is_package=is_package)
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> Any:
        return None

    def exec_module(self, module: Any) -> None:
        exec(self.codes[self._paths[module.__name__]], module.__dict__)

    def load(self, path: str) -> Any:
        """Run a file of the suite as a module. Its directory need not be a package."""
        name = _names(path)[0]
        if name not in sys.modules:
            module = types.ModuleType(name)
            module.__file__ = os.path.join(self._root, path)
            module.__package__ = name.rpartition(".")[0]
            sys.modules[name] = module
            exec(self.codes[path], vars(module))
        return sys.modules[name]


class SystemFiles(MetaPathFinder):
    """The standard library and what else was installed before the program came."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = list(trusted)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        for finder in (BuiltinImporter, FrozenImporter):
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        inside = [entry for entry in path or () if entry.startswith(tuple(self._trusted))]
        spec = PathFinder.find_spec(name, inside if "." in name else self._trusted, target)
        return None if spec is None or spec.loader is None else spec


class ProgramModules(MetaPathFinder, Loader):
    """Everything else: the program's modules, which are loaded in its own process."""

    def __init__(self, link: Link, only: set[str] | None, taken: set[str]) -> None:
        self._link = link
        self._only = only
        self._taken = taken
        self._views: dict[str, Any] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if top in _NEVER or (self._only is not None and top not in self._only):
            return None
        try:
            view = self._link.ask("import", name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name + ".").startswith(error.name + "."):
                return None
            raise
        self._views[name] = view
        return ModuleSpec(name, self, is_package=self._is_package(view))

    def _is_package(self, view: Any) -> bool:
        return "__path__" in self._link.ask("dir", view)

    def create_module(self, spec: ModuleSpec) -> Any:
        return RemoteModule(spec.name, self._views[spec.name], self._taken)

    def exec_module(self, module: Any) -> None:
        """It has run already, over there."""

    def spec_of_file(self, name: str, path: str) -> ModuleSpec:
        """For a file of the program, whatever it is called."""
        self._views[name] = self._link.ask("load", name, path)
        return ModuleSpec(name, self, origin=path)


def build(suite: SuiteFiles, program: ProgramModules, trusted: Sequence[str]) -> Guard:
    """Take over the imports, and have the interpreter report what becomes code."""
    sys.meta_path[:] = [suite, SystemFiles(trusted), program]
    setattr(builtins, _SAME, same)
    guard = Guard(list(suite.codes.values()), trusted)
    sys.addaudithook(guard)
    return guard


class Guard:
    """An audit hook. It runs in the frame that does the deed, and cannot be taken off again."""

    def __init__(self, codes: Sequence[Any], trusted: Sequence[str]) -> None:
        self._codes = codes
        self._trusted = (*trusted, "<frozen ")
        self._getframe: Any = getattr(sys, "_" + "getframe")
        self.refused = ""

    def __call__(self, event: str, args: Any) -> None:
        if event == "exec":
            code = args[0]
            if any(code is own for own in self._codes) or code.co_filename.startswith(self._trusted):
                return
        elif event == "import":  # with a file: one of machine code
            if args[1] is None or args[1].startswith(self._trusted):
                return
        elif not event.startswith(_FORBIDDEN):
            return
        caller = str(self._getframe(1).f_globals.get("__name__"))
        if (event, caller) in _ALLOWED:
            return
        self.refused = (
            f"{event} by {caller}: the program's text could run beside the expected values; "
            "import the program, or start it with subprocess.run"
        )
        raise Refused(self.refused)


def same(first: Any, second: Any) -> bool:
    """`is`, as the suite's text means it: two stand-ins for one object are one."""
    if is_remote(first) and is_remote(second):
        return stub_of(first).number == stub_of(second).number
    return first is second


class _Identity(ast.NodeTransformer):
    """`a is b` becomes a call of `same`."""

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return node
        name = ast.Name(id=_SAME, ctx=ast.Load())
        call: ast.expr = ast.Call(func=name, args=[node.left, *node.comparators], keywords=[])
        if isinstance(node.ops[0], ast.IsNot):
            call = ast.UnaryOp(op=ast.Not(), operand=call)
        return ast.fix_missing_locations(ast.copy_location(call, node))


def _compiled(tree: ast.Module, file: str) -> Any:
    return compile(_Identity().visit(tree), file, "exec", dont_inherit=True)


def _bound(node: ast.AST) -> set[str]:
    """The names that a module binds, but for those that come with a star."""
    names: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(child.name)
        elif isinstance(child, ast.alias):
            names.add(child.asname or child.name.partition(".")[0])
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            names.add(child.id)
        else:
            names |= _bound(child)
    return names


def _names(path: str) -> list[str]:
    """How a suite may import a file of its own: by its whole path, and by what is left beneath any directory.

    >>> _names("a/tests/helpers.py")
    ['a.tests.helpers', 'tests.helpers', 'helpers']
    """
    parts = path[: -len(".py")].split("/")
    if parts[-1] == "__init__":
        parts.pop()
    return [".".join(parts[at:]) for at in range(len(parts))]
