"""The limits of the embedded sandboxes, met by programs that do their worst. Each is bounded in time."""

import os
from collections.abc import Iterator

import pytest
from embedded_box import leaves_nothing, on_each_tier, play, printed, python, run

from palaestra.sandboxes import ExecStatus, Sandbox, SandboxFileError

pytestmark = pytest.mark.alone

SMALL = {"memory_mb": 96, "pids": 16, "disk_mb": 16}


@pytest.fixture(autouse=True)
def _nothing_is_left(tier: str) -> Iterator[None]:
    yield from leaves_nothing(tier)


@on_each_tier
def test_memory_that_no_process_size_shows_is_refused_or_counted(tier: str) -> None:
    code = """
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
calls = dict(memfd_create=319, memfd_secret=447, shmget=29, msgget=68, semget=64, mq_open=240)
for name, number in calls.items():
    ctypes.set_errno(0)
    assert libc.syscall(number, b"x", 1 << 20, 0o600) == -1 and ctypes.get_errno() == errno.EPERM, name
fds = []
try:
    while True: fds += os.pipe()
except OSError as error:
    assert error.errno == errno.EMFILE
print(len(fds) < 260)
"""
    assert printed(python(tier, code, limits=SMALL)) == "True"


@on_each_tier
def test_exactly_as_many_processes_as_allowed_run(tier: str) -> None:
    code = """
import os, time
for _ in range(15):
    if os.fork() == 0: time.sleep(0.3); os._exit(0)
try:
    pid = os.fork()
    if pid == 0: os._exit(0)
    print("one too many")
except BlockingIOError: print("full")
"""
    result = python(tier, code, limits=SMALL)
    # Root's programs have a user of their own that the kernel counts; otherwise the supervisor does.
    assert result.status is ExecStatus.PIDS or printed(result) == "full"


@on_each_tier
def test_orphans_do_not_fill_the_process_limit(tier: str) -> None:
    result = run(tier, ["sh", "-c", "for i in $(seq 400); do (: &); done; echo done"])
    assert printed(result) == "done" and not result.stderr


@on_each_tier
def test_a_full_workspace_refuses_a_file_and_takes_a_smaller_one(tier: str) -> None:
    if tier == "landlock":
        pytest.skip("the landlock tier looks at its disk only while a program runs")

    async def part(box: Sandbox) -> None:
        with pytest.raises(SandboxFileError, match="full"):
            await box.write("big", bytes(32 << 20))
        await box.write("small", b"x")
        assert await box.list() == ["small"]

    play(tier, part, **SMALL)


@on_each_tier
def test_the_processors_that_a_program_sees_are_its_share(tier: str) -> None:
    code = """
import os
print(len(os.sched_getaffinity(0)))
try: os.sched_setaffinity(0, range(os.cpu_count()))
except PermissionError: print("kept")
"""
    assert printed(python(tier, code, limits={"cpus": 0.5})) == "1\nkept"
    everything = min(2, len(os.sched_getaffinity(0)))
    assert printed(python(tier, code, limits={"cpus": 2})).startswith(str(everything))
