"""The process limit of the landlock tier, where programs share the user of a driver without privileges."""

import json
from typing import Any

import pytest
from embedded_box import need
from ordinary_user import OTHER_USER, need_root, python_for, run_as

DRIVER = """
import asyncio, json, sys
from palaestra.sandboxes import SandboxSpec, open_sandbox

async def main():
    async with open_sandbox(SandboxSpec(backend="landlock", pids=8)) as box:
        result = await box.run(["python3", "-c", sys.argv[1]], timeout_s=30)
        after = await box.run(["python3", "-c", "import os; print(os.fork() >= 0)"])
    print(json.dumps([result.status, result.stdout.decode(), result.stderr.decode(), after.stdout.decode()]))

asyncio.run(main())
"""
MANY = """
import errno, os, signal, sys, threading, time
made = 0
try:
    for _ in range(100):
        if os.fork() == 0: time.sleep(60)
        made += 1
except OSError as error: print(made, errno.errorcode[error.errno])
"""
ONE_BY_ONE = """
import os
for _ in range(300):
    if (pid := os.fork()) == 0: os._exit(0)
    os.waitpid(pid, 0)
print("all")
"""
THREADS = """
import threading
release = threading.Event()
kept = []
try:
    for _ in range(100):
        kept.append(threading.Thread(target=release.wait, args=(60,)))
        kept[-1].start()
except RuntimeError as error: print(len(kept) - 1, error)
release.set()
"""


def run_under(program: str) -> Any:
    need_root()
    need("landlock")
    done = run_as(OTHER_USER, [python_for(OTHER_USER), "-c", DRIVER, program])
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_one_more_process_than_the_limit_is_refused_as_the_kernel_would() -> None:
    _, out, err, after = run_under(MANY)
    assert out == "7 EAGAIN\n", err
    assert "True" in after


def test_one_more_thread_than_the_limit_is_refused() -> None:
    _, out, err, _ = run_under(THREADS)
    assert out == "7 can't start new thread\n", err


def test_processes_that_come_and_go_never_meet_the_limit() -> None:
    status, out, err, _ = run_under(ONE_BY_ONE)
    assert (status, out) == ("ok", "all\n"), err


@pytest.mark.parametrize(
    "command", ["true | true | true | true; echo done", "for i in 1 2 3 4 5; do $(true); done; echo done"]
)
def test_a_shell_has_its_pipelines(command: str) -> None:
    status, out, err, _ = run_under(
        f"import subprocess; subprocess.run(['sh', '-c', {command!r}], check=True)"
    )
    assert (status, out) == ("ok", "done\n"), err
