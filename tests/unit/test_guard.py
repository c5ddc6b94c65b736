"""The guard between us and a server: nothing of the server outlives us."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import group, wait_until_gone

import palaestra.agents.engines as engines

GUARD = Path(engines.__path__[0]) / "guard.py"
# A command with a child that ignores SIGTERM and says when it runs.
CHILD = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""
STUBBORN = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"
PARENT = f"""
import subprocess, sys, time
command = [sys.executable, {str(GUARD)!r}, sys.executable, "-c", {STUBBORN!r}]
guard = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
print("guard", guard.pid, flush=True)
time.sleep(60)
"""


def ignores(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def start(code: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(GUARD), sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)


@pytest.mark.parametrize("how", ["close the pipe", "signal", "signals"])
def test_it_takes_stubborn_grandchildren_down(how: str) -> None:
    with start(STUBBORN) as guard:
        assert guard.stdout is not None and guard.stdin is not None
        assert guard.stdout.readline() == b"up\n"
        assert len(group(guard.pid)) == 3
        if how == "close the pipe":
            guard.stdin.close()
        else:
            guard.send_signal(signal.SIGTERM)
        if how == "signals":
            while not ignores(guard.pid, signal.SIGTERM):
                time.sleep(0.01)
            guard.send_signal(signal.SIGINT)
        wait_until_gone(guard.pid)


def test_it_notices_the_kill_of_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        words = [parent.stdout.readline().split() for _ in range(2)]
        pid = next(int(line[1]) for line in words if line[0] == b"guard")
        assert [b"up"] in words
        parent.kill()
        wait_until_gone(pid)


def test_a_command_that_ends_ends_the_guard() -> None:
    with start("import sys; sys.exit(3)") as guard:
        guard.wait(30)
    wait_until_gone(guard.pid)
