"""Runs one grader beside the run, and outlives it. Standard library only; started by `program.py`.

python _runner.py FOLDER LIMIT_S PROGRAM [ARGUMENT...]

The program reads FOLDER/request on its standard input. What it wrote and how it ended is in FOLDER/result,
which is there whole or not at all; by then all that it started is over too, also what left its session.
SIGTERM ends all of it, without a result.
The lock that this process inherits says whether it still lives: the kernel drops it, however it dies.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

MAX_OUTPUT = 1 << 24
SHOWN = 2000
"""Bytes of standard error that go on record."""
_PDEATHSIG = 1
_CHILD_SUBREAPER = 36


def main(folder: Path, limit_s: float, argv: list[str]) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1)  # orphans of the program become children of this process
    signal.signal(signal.SIGTERM, _stop)
    result: dict[str, object]
    with (folder / "request").open("rb") as stdin:
        try:
            program = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=_die_with_the_parent,
            )
        except (OSError, subprocess.SubprocessError) as error:
            result = {"error": f"cannot start {argv[0]}: {error}", "retryable": False}
        else:
            result = _ended(program, limit_s)
    partial = folder / "result.partial"
    partial.write_text(json.dumps(result))
    partial.replace(folder / "result")


def _ended(program: "subprocess.Popen[bytes]", limit_s: float) -> dict[str, object]:
    assert program.stdout is not None and program.stderr is not None, "they are pipes"
    stdout, stderr = _Said(program.stdout, program), _Said(program.stderr, None)
    is_late = False
    try:
        program.wait(limit_s)
    except subprocess.TimeoutExpired:
        is_late = True
    finally:
        program.kill()
        program.wait()
        _end_the_rest()
    stdout.join()
    stderr.join()
    if len(stdout.kept) > MAX_OUTPUT:
        return {"error": f"nonsense: the grader wrote over {MAX_OUTPUT >> 20} MB", "retryable": False}
    if is_late:
        return {"error": f"timeout: the grader took over {limit_s:g} s", "retryable": True}
    return {
        "code": program.returncode,
        "stdout": stdout.kept.decode(errors="replace"),
        "stderr": stderr.kept.decode(errors="replace"),
    }


class _Said(threading.Thread):
    """Reads what a program writes: its start, after which it is killed, or its end."""

    def __init__(self, pipe: IO[bytes], program: "subprocess.Popen[bytes] | None") -> None:
        super().__init__(daemon=True)
        self.kept = bytearray()
        self._fd, self._program = pipe.fileno(), program
        self.start()

    def run(self) -> None:
        while data := os.read(self._fd, 1 << 16):
            if self._program is None:
                self.kept = (self.kept + data)[-SHOWN:]
            elif len(self.kept) <= MAX_OUTPUT:
                self.kept += data
            else:
                self._program.kill()


def _stop(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


def _end_the_rest() -> None:
    """Kill what the program has started, until nothing of it is left."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def _die_with_the_parent() -> None:
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
