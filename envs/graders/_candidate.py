"""What runs inside the sandbox when `UnitTests` grades a program: one fresh process per test.

    stdin: limits, program, setup, calls ... then, when all is over, the nonce
    harness ──fork──> process of one test: program, setup, one call ──> an unlinked file ──> harness
    stdout: "nonce index kind text" per test, written by the harness alone

The program's process has the call's source, and nothing to compare with: no expected value, not the nonce,
and for stdout it has stderr. What it can forge is its own answer. Standard library of Python 3.8 only, as
any image may have it, and no json: the text of an answer is also its canonical form (`encode`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable
from typing import Any

MAPPINGS = (dict, Counter, OrderedDict, defaultdict)
ANSWERED, RAISED, ENDED, STOPPED, FORGED = "answered", "raised", "ended", "stopped", "forged"


def encode(value: Any) -> str:
    """Type-tagged JSON; equal texts mean equal values of equal types, but that an int equals a float.

    >>> encode((1, 2.0, True)), encode({1: {"a"}})
    ('{"tuple":[1,2,true]}', '{"dict":[[1,{"set":["a"]}]]}')

    Exact types only: an object that lies about its equality has no text. Raises `TypeError`.
    """
    kind = _type_of(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is float:
        return _number(value)
    if kind is str:
        return _string(value)
    if kind is list:
        return f"[{_joined(value)}]"
    if kind is tuple:
        return f'{{"tuple":[{_joined(value)}]}}'
    if kind is set or kind is frozenset:
        return f'{{"{kind.__name__}":[{",".join(sorted(map(encode, value)))}]}}'
    if kind in MAPPINGS:
        pairs = sorted(f"[{encode(key)},{encode(item)}]" for key, item in value.items())
        return f'{{"dict":[{",".join(pairs)}]}}'
    if kind is bytes or kind is bytearray:
        return f'{{"{kind.__name__}":"{value.hex()}"}}'
    if kind is complex:
        return f'{{"complex":[{_number(value.real)},{_number(value.imag)}]}}'
    raise TypeError(f"a {kind.__name__} is no plain value")


def _type_of(value: object) -> type:
    return type(value)


def _joined(values: Iterable[Any]) -> str:
    return ",".join(map(encode, values))


def _number(value: Any) -> str:
    """1 for 1 and for 1.0; hexadecimal for what is large, as a decimal text may have 4,300 digits only."""
    if value in (float("inf"), -float("inf")) or value != value:
        return f'{{"float":"{value}"}}'
    whole = int(value)
    if value != whole:
        return repr(value)
    return str(whole) if abs(whole) < 1 << 63 else f'{{"int":"{whole:#x}"}}'


def _string(text: str) -> str:
    plain = (char if " " <= char <= "~" and char not in '"\\' else _escaped(char) for char in text)
    return f'"{"".join(plain)}"'


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join("\\u" + units[at : at + 4] for at in range(0, len(units), 4))


def frame(parts: Iterable[bytes]) -> bytes:
    """What `_take` reads: each part behind its length."""
    return b"".join(b"%010d" % len(part) + part for part in parts)


def _take() -> bytes:
    """The next part of standard input, and not one byte more: what follows may not be in memory yet."""
    return _exactly(int(_exactly(10)))


def _exactly(size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            raise EOFError("standard input ended early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _be_candidate(code: bytes, setup: bytes, call: bytes, key: str, file: int) -> None:
    """In the process of one test: run the program, then answer."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    module = type(sys)("solution")
    sys.modules["solution"] = module
    space = module.__dict__
    try:
        exec(compile(code, "solution.py", "exec", dont_inherit=True), space)
        exec(compile(setup, "setup.py", "exec", dont_inherit=True), space)
        answer = eval(compile(call, "test.py", "eval", dont_inherit=True), space)
        text = f"{ANSWERED} {encode(answer)}"
    except BaseException as error:  # SystemExit too: to leave is no answer
        text = f"{RAISED} {ascii(type(error).__name__)[1:-1]}"
    line = f"{key} {text}\n".encode()
    while line:
        line = line[os.write(file, line) :]
    os._exit(0)


def _test(code: bytes, setup: bytes, call: bytes, until: float, room: int) -> tuple[str, str]:
    """How one test went: a kind and its text, printable ASCII. `room`: bytes that the answer may have."""
    key, name = os.urandom(8).hex(), os.urandom(8).hex()
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(name)
    pid = os.fork()
    if pid == 0:
        try:
            _be_candidate(code, setup, call, key, file)
        finally:
            os._exit(1)
    status = _wait(pid, until)
    written = os.pread(file, room + 64, 0)
    os.close(file)
    if status is None:
        return STOPPED, "at the time limit"
    if not written:
        return ENDED, f"with signal {status & 127}" if status & 127 else f"with exit code {status >> 8}"
    if len(written) > room:
        return STOPPED, "at the size limit"
    text = written.decode("ascii", "replace")
    found, kind, rest = [*text.rstrip("\n").split(" ", 2), "", ""][:3]
    is_whole = text.endswith("\n") and rest.isascii() and rest.isprintable()
    if found == key and kind in (ANSWERED, RAISED) and is_whole:
        return kind, rest
    return FORGED, ascii(text)[:200]


def _wait(pid: int, until: float) -> int | None:
    """The wait status of a child; None when it had to be killed."""
    try:
        signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 0.001))
        status = os.waitpid(pid, 0)[1]
        signal.setitimer(signal.ITIMER_REAL, 0)
        return status
    except TimeoutError:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):  # it ended just when time was up
            pass
        return None


def _ring(number: int, _: object) -> None:
    raise TimeoutError


def main() -> None:
    """The harness: it never runs a line of the program in its own process."""
    signal.signal(signal.SIGALRM, _ring)
    until = time.monotonic() + float(_take())
    room = int(_take())
    code, setup = _take(), _take()
    lines: list[str] = []
    for index in range(int(_take())):
        kind, text = _test(code, setup, _take(), until, room)
        room = max(room - len(text), 0)
        lines.append(f"{index} {kind} {text}\n")
    nonce = _take().decode()
    report = "".join(f"{nonce} {line}" for line in lines).encode()
    while report:
        report = report[os.write(1, report) :]


if __name__ == "__main__":
    main()
