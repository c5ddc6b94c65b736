"""Run a Python program in the forked interpreter, without exec: the difference is 1 ms against 10.

`python3 -c CODE`, `python3 FILE.py` and `python3 -` see the same sys.argv, __main__, sys.path, tracebacks,
exit codes and exit-time work as under exec. What differs: a few standard modules are in sys.modules
already, and sys.flags is the zygote's. Anything else takes exec: other flags, -m, variables that are read
at a start, such as TZ.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import stat
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import BuiltinImporter, SourceFileLoader
from types import CodeType, ModuleType
from typing import NamedTuple

from .linux import set_handler

_PLAIN_FLAGS = {"-u", "-B", "-s", "-E"}


class Program(NamedTuple):
    """A Python command line that this interpreter can become."""

    argv: tuple[str, ...]
    """The whole command line."""
    kind: str
    """"-c", "-" or the path of a file."""
    code: str
    """The source for "-c"."""
    args: tuple[str, ...]
    """What follows: sys.argv[1:]."""
    flags: frozenset[str]


def parse(argv: tuple[str, ...]) -> Program | None:
    """The program in a Python command line, or None when only exec can honour it."""
    at = 1
    while at < len(argv) and argv[at] in _PLAIN_FLAGS:
        at += 1
    if at == len(argv):
        return None
    flags, kind, rest = frozenset(argv[1:at]), argv[at], argv[at + 1 :]
    if kind == "-c":
        # Surrogates (bytes that are not UTF-8) are an error of the real command line: let it say so.
        if not rest or not _is_text(rest[0]):
            return None
        return Program(argv=argv, kind="-c", code=rest[0], args=rest[1:], flags=flags)
    if kind == "-" or (kind.endswith(".py") and not kind.startswith("-") and _is_file(kind)):
        return Program(argv=argv, kind=kind, code="", args=rest, flags=flags)
    return None


def _is_text(code: str) -> bool:
    try:
        code.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.R_OK)
    except (OSError, ValueError):
        return False


def run(program: Program, base_path: list[str]) -> None:
    """Be `program`, to its end. Never returns."""
    gc.freeze()  # what is here already is the sandbox's own: no collection of the program's shall touch it
    # Python's own name for an interrupted main program: it dies of SIGINT, so that a parent can tell.
    set_handler(signal.SIGINT, signal.default_int_handler)
    namespace = _fresh_main(program, base_path)
    gc.enable()
    compiled = _compile(program)
    code = 1 if compiled is None else _guarded(partial(exec, compiled, namespace))
    if (threading := sys.modules.get("threading")) is not None:
        _guarded(threading._shutdown)
    # No public name runs what a program registered, short of ending the interpreter.
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    is_written = _flush_standard()
    _tear_down(namespace)
    os._exit(code if is_written and _flush_standard() else 120)


def _fresh_main(program: Program, base_path: list[str]) -> dict[str, object]:
    """The namespace of a new __main__."""
    main = ModuleType("__main__")
    is_file = program.kind not in ("-c", "-")
    loader: object = SourceFileLoader("__main__", program.kind) if is_file else BuiltinImporter
    vars(main).update(__builtins__=sys.modules["builtins"], __loader__=loader, __annotations__={})
    if is_file:
        vars(main).update(__file__=os.path.abspath(program.kind), __cached__=None)
    sys.modules["__main__"] = main
    sys.argv = [program.kind, *program.args]
    sys.orig_argv = list(program.argv)
    first = os.path.dirname(os.path.realpath(program.kind)) if is_file else ""
    sys.path[:] = [first, *base_path]
    if "-B" in program.flags:
        sys.dont_write_bytecode = True
    if "-u" in program.flags:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(write_through=True)
    return vars(main)


def _compile(program: Program) -> CodeType | None:
    try:
        if program.kind == "-c":
            return compile(program.code, "<string>", "exec", dont_inherit=True)
        if program.kind == "-":
            return compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True)
        with open(program.kind, "rb") as file:
            return compile(file.read(), os.path.abspath(program.kind), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        # The parser has no frame of its own in a real command line.
        sys.excepthook(type(error), error.with_traceback(None), None)
        return None


def _guarded(action: Callable[[], object]) -> int:
    """Call like the interpreter's top level: the exit code, with a traceback for what was not caught."""
    try:
        action()
    except SystemExit as error:
        return _exit_code(error)
    except BaseException as error:
        # This is the program's last resort, as in the interpreter itself. Our own frame is not its concern.
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        if isinstance(error, KeyboardInterrupt):
            _flush_standard()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _flush_standard() -> bool:
    ok = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError, AttributeError) as error:
            ok = False
            if stream is sys.stdout:
                print(f"Exception ignored in: {stream!r}\n{type(error).__name__}: {error}", file=sys.stderr)
    return ok


def _tear_down(namespace: dict[str, object]) -> None:
    """What interpreter shutdown does that a program can see: __del__ runs, open files reach the disk."""
    for name in list(namespace):
        if name != "__builtins__":
            namespace[name] = None
    gc.collect()
    for thing in gc.get_objects():
        if type(thing) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            try:
                thing.flush()
            except (OSError, ValueError):
                continue
