"""Runs one grader beside the run, and outlives it. Standard library only; started by `program.py`.

python _runner.py FOLDER LIMIT_S PROGRAM [ARGUMENT...]

The program reads FOLDER/request on its standard input. What it wrote and how it ended is in FOLDER/result,
which is there whole or not at all. The lock that this process inherits says whether it still lives: the
kernel drops it, however it dies.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

MAX_OUTPUT = 1 << 24
SHOWN = 2000
"""Bytes of standard error that go on record."""
_PDEATHSIG = 1


def main(folder: Path, limit_s: float, argv: list[str]) -> None:
    out, err = folder / "stdout", folder / "stderr"
    (folder / "pid").write_text(str(os.getpid()))
    result: dict[str, object]
    with (folder / "request").open("rb") as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
        try:
            program = subprocess.Popen(
                argv, stdin=stdin, stdout=stdout, stderr=stderr, preexec_fn=_die_with_the_parent
            )
        except (OSError, subprocess.SubprocessError) as error:
            result = {"error": f"cannot start {argv[0]}: {error}", "retryable": False}
        else:
            result = _ended(program, limit_s)
    if "code" in result:
        result["stdout"] = _start(out, MAX_OUTPUT)
        result["stderr"] = _end(err)
    partial = folder / "result.partial"
    partial.write_text(json.dumps(result))
    partial.replace(folder / "result")


def _ended(program: "subprocess.Popen[bytes]", limit_s: float) -> dict[str, object]:
    try:
        return {"code": program.wait(limit_s)}
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
        return {"error": f"timeout: the grader took over {limit_s:g} s", "retryable": True}


def _die_with_the_parent() -> None:
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


def _start(path: Path, size: int) -> str:
    with path.open("rb") as file:
        return file.read(size).decode(errors="replace")


def _end(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - SHOWN, 0))
        return file.read(SHOWN).decode(errors="replace")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
