"""The far side of reward functions: loads their files, and calls a handler as AWS Lambda does, in a worker
process or as a program inside a sandbox.

Standard library of Python 3.8 only. As a program it takes the path, the handler's name and the seconds as
words, the event on standard input, and answers with one line on standard output, after the nonce.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import sys
import time
import traceback
from decimal import Decimal
from types import ModuleType
from typing import Any

PRINTED_CHARS = 500
"""What is kept of what the function prints: the end, and only when it fails."""

_loaded: dict[tuple[str, int], ModuleType] = {}


class Context:
    """What AWS hands over beside the event."""

    function_version = "$LATEST"
    memory_limit_in_mb = "512"
    invoked_function_arn = ""
    log_group_name = ""
    log_stream_name = ""
    identity = None
    client_context = None

    def __init__(self, name: str, event: str, timeout_s: float) -> None:
        self.function_name = name
        self.aws_request_id = hashlib.sha256(event.encode(errors="replace")).hexdigest()[:32]
        self._deadline = time.monotonic() + timeout_s

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int(1000 * (self._deadline - time.monotonic())))


def call_handler(path: str, name: str, event: str, timeout_s: float) -> tuple[bool, str]:
    """(True, the reply as JSON), or (False, why there is none): foreign exceptions do not travel well."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            handler = getattr(load_module(path), name)
            reply = handler(json.loads(event), Context(name, event, timeout_s))
            return True, json.dumps(reply, default=_plain)
    except BaseException as error:  # every kind, exits and interrupts too: it is the function's
        return False, told(error, path) + _end_of(printed.getvalue())


def load_handler(path: str, name: str) -> tuple[bool, str]:
    """Whether there is something to call, or why not."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            found = getattr(load_module(path), name)
    except BaseException as error:  # every kind, as above
        return False, told(error, path) + _end_of(printed.getvalue())
    return callable(found), f"{name} is {found!r:.100}, which cannot be called"


def load_module(path: str, source: bytes | None = None) -> ModuleType:
    """The file as a module: loaded once in a process, as Lambda does, and again when it has changed.

    `source`: what was in it once; None: what is in it now.
    """
    key = (os.path.abspath(path), os.stat(path).st_mtime_ns if source is None else hash(source))
    if key not in _loaded:
        folder, stem = os.path.dirname(key[0]), os.path.splitext(os.path.basename(path))[0]
        if folder not in sys.path:
            sys.path.insert(0, folder)
        name = stem if stem not in sys.modules else f"{stem}_{len(_loaded)}"
        spec = importlib.util.spec_from_file_location(name, key[0])
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look a class up by its module
        try:
            if source is None:
                spec.loader.exec_module(module)
            else:
                exec(compile(source, key[0], "exec"), module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
        _loaded[key] = module
    return _loaded[key]


def _plain(value: Any) -> Any:
    """As Lambda's own runtime."""
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"the reply holds a {type(value).__name__}, which has no JSON form")


def told(error: BaseException, path: str) -> str:
    """With the line of the function's own file, which is what its author looks for."""
    try:
        text = str(error)
    except BaseException as broken:  # every kind: foreign classes print themselves
        text = f"(no text: its __str__ raised {type(broken).__name__})"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == os.path.abspath(path)]
    at = f", in {os.path.basename(path)}, line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}: {text}{at}"


def _end_of(printed: str) -> str:
    text = printed.strip()[-PRINTED_CHARS:]
    return f"; it printed: {text}" if text else ""


def main() -> None:
    """Inside a sandbox. What the function writes to the real standard output is not the answer."""
    path, name, timeout_s, nonce = sys.argv[1:5]
    answer = os.dup(1)
    os.dup2(2, 1)
    ok, text = call_handler(path, name, sys.stdin.read(), float(timeout_s))
    with os.fdopen(answer, "w") as out:
        out.write(f"{nonce}{json.dumps([ok, text])}\n")


if __name__ == "__main__":
    main()
