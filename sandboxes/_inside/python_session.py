"""A program, run inside by `python3 -c`: a Python that reads code from stdin, and answers on descriptor 3.

Standard library of Python 3.8 only, as any image may have it.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
import traceback
from types import ModuleType
from typing import Any

ANSWERS = 3


def serve() -> None:
    """Until standard input ends, or the code says exit."""
    orders = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.set_inheritable(ANSWERS, False)
    # A module of its own: the code sees none of these names.
    main = sys.modules["__main__"] = ModuleType("__main__")
    while True:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        nonce, _, size = orders.readline().partition(b" ")
        if not size:
            return
        status = run(orders.read(int(size)).decode(), vars(main))
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # the code may have closed or replaced it
                continue
        os.write(ANSWERS, nonce + b" %d\0" % status)


def run(code: str, space: dict[str, Any]) -> int:
    """Run one piece of code, and show the value of its last line, as a prompt would; the exit code."""
    try:
        # By compile: an error in it has no frame of `ast` in its traceback.
        tree = compile(code, "<session>", "exec", ast.PyCF_ONLY_AST)
        assert isinstance(tree, ast.Module)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exec(compile(tree, "<session>", "exec"), space)
        if isinstance(last, ast.Expr):
            sys.displayhook(eval(compile(ast.Expression(last.value), "<session>", "eval"), space))
    except SystemExit:
        raise
    except BaseException as error:  # as a prompt does: it tells, and goes on
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, trace)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 0


if __name__ == "__main__":
    serve()
