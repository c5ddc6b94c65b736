"""Once, in the process that programs are forks of: what each fork would otherwise do again."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from . import linux
from .command import python_names

# Programs find these loaded already, and need not pay for the import. `random` and `threading` are left out:
# both do work in every fork.
_PRELOADED = (
    "bisect collections copy dataclasses datetime functools heapq itertools json math operator re string "
    "textwrap time typing"
)


def load_ahead(modules: Sequence[str], path: list[str]) -> None:
    """Import `SandboxSpec.preload`. Raises `ImportError` for what is missing, or starts threads."""
    before, sys.path[:] = sys.path[:], path
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # what a module does when it is loaded is its own
            raise ImportError(f"preload: {name!r} is not at hand for programs here: {error}") from error
        if len(os.listdir("/proc/self/task")) > 1:
            raise ImportError(f"preload: {name!r} starts threads, which would be in no program")
    sys.path[:] = before
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # what a module said when it was loaded is no output of every program


def warm_up(package: str) -> None:
    """Load, then freeze. `package` holds our own modules, which programs shall not find."""
    for name in _PRELOADED.split():
        import_module(name)
    # A signal to process 1 that has no handler is dropped by the kernel; Python has one for SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    python_names()
    exec(compile("pass", "<string>", "exec"), {})
    # Forks inherit the blank line: their /proc entries name no file of the host.
    linux.hide_command_line()
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()
    gc.disable()
