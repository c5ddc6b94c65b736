"""A supervisor whose sandbox is as new waits a moment for the next one; any other leaves with its sandbox."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from embedded_box import leaves_nothing, printed
from memory_scan import put_in_and_out, scan, written
from support import run_async

from palaestra.sandboxes import Sandbox, SandboxSpec
from palaestra.sandboxes._embedded.zygotes import zygote
from palaestra.sandboxes.local import LocalSandbox, open_local

SPEC = SandboxSpec(backend="namespaces", memory_mb=96)
Part = Callable[[Sandbox], Awaitable[object]]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield from leaves_nothing("namespaces")


def numbers(*parts: Part, spec: SandboxSpec = SPEC) -> list[int]:
    """Which supervisor each part got, played one after the other in a sandbox of its own."""

    async def whole() -> list[int]:
        found: list[int] = []
        for part in parts:
            box = await open_local("namespaces", spec)
            found.append(box.number)
            try:
                await part(box)
            finally:
                await box.close()
        return found

    return run_async(whole())


async def hello(box: Sandbox) -> None:
    assert printed(await box.run(["python3", "-c", "print(6 * 7)"])) == "42"


def shell(command: str) -> Part:
    return lambda box: box.run(["sh", "-c", command], timeout_s=0.5)


def python(code: str) -> Part:
    return lambda box: box.run(["python3", "-c", code])


async def wrote(box: Sandbox) -> None:
    await written(box, b"text")


async def listed(box: Sandbox) -> None:
    await box.list()


async def started(box: Sandbox) -> None:
    await box.start(["true"])


def test_programs_that_leave_nothing_take_turns_in_one_supervisor() -> None:
    assert (
        len(set(numbers(hello, shell("exit 3"), shell("kill -9 $$"), shell("rm -f none; cd /tmp"), hello)))
        == 1
    )


SERVER = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
server.accept()[0].close(); client.recv(1)
"""

UNREACHABLE = """
import socket
try: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 9))
except OSError: pass
"""
IN_FLIGHT = """
import fcntl, os, socket
ends = socket.socketpair()
named = socket.socket(socket.AF_UNIX)
named.bind(b"\\0left")
here = os.open(".", os.O_RDONLY)
fcntl.flock(here, fcntl.LOCK_EX)
for end in ends:
    socket.send_fds(end, [b"x"], [here, named.fileno(), *(each.fileno() for each in ends)])
"""


@pytest.mark.parametrize(
    "part",
    [
        shell("echo > file"),
        shell("echo > /tmp/file"),
        shell("mkdir /dev/shm/d"),
        shell("echo > file; rm file; chmod 700 ."),
        shell("chmod 777 /tmp"),
        shell("ln -s x y"),
        python(SERVER),
        python(UNREACHABLE),
        shell("sleep 60"),
        python("x = b'x' * (200 << 20); import time; time.sleep(9)"),
        wrote,
        listed,
        started,
    ],
)
def test_whatever_leaves_a_trace_is_in_nobody_elses_sandbox(part: Part) -> None:
    first, second = numbers(part, hello)
    assert first != second


def test_sockets_that_wait_to_be_collected_keep_no_name_from_the_next_owner() -> None:
    async def take_the_name(box: Sandbox) -> None:
        code = "import socket; socket.socket(socket.AF_UNIX).bind(b'\\0left'); print('mine')"
        assert printed(await box.run(["python3", "-c", code])) == "mine"

    for _ in range(5):  # the kernel collects them when it likes, and sometimes before the sandbox is closed
        numbers(python(IN_FLIGHT), take_the_name)


def test_a_fork_is_in_nobody_elses_sandbox_with_the_files_that_it_began_with() -> None:
    async def whole() -> None:
        box = await open_local("namespaces", SPEC)
        await box.write("secret", b"x")
        twin = await box.fork()
        for closed in (twin, box):
            await closed.close()
        other = await open_local("namespaces", SPEC)
        assert await other.list() == []
        await other.close()

    run_async(whole())


def test_another_limit_is_another_sandbox() -> None:
    (first,) = numbers(hello)
    (second,) = numbers(hello, spec=SandboxSpec(backend="namespaces", memory_mb=97))
    assert first != second


def test_nothing_of_the_sandbox_before_is_in_memory() -> None:
    canary = os.urandom(32)
    seen: list[list[int]] = []

    async def leave(box: Sandbox) -> None:
        await put_in_and_out(box, canary * 1000)
        await box.run(
            ["python3", "-c", f"secret = bytes.fromhex({canary.hex()!r})"], env={"SECRET": canary.hex()}
        )

    async def look(box: Sandbox) -> None:
        seen.append(await scan(box, canary))
        assert "SECRET" not in printed(await box.run(["env"]))
        assert printed(await box.run(["sh", "-c", "ls -A . /tmp /dev/shm; ps 2>/dev/null | wc -l; pwd"]))

    assert len(set(numbers(leave, look))) == 1
    assert seen == [[0, 0]]


def kill_supervisors() -> None:
    keeper = zygote("namespaces").pid
    for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def test_a_parked_supervisor_that_is_killed_is_replaced() -> None:
    async def whole() -> None:
        box = await open_local("namespaces", SPEC)
        await hello(box)
        await box.close()
        kill_supervisors()
        other = await open_local("namespaces", SPEC)
        await hello(other)
        await other.close()
        assert other.number != box.number

    run_async(whole())


def test_a_closed_sandbox_that_was_parked_takes_no_calls_and_closes_again() -> None:
    async def whole() -> None:
        box: LocalSandbox = await open_local("namespaces", SPEC)
        await asyncio.gather(box.close(), box.close())
        await box.close()
        with pytest.raises(Exception, match="closed"):
            await hello(box)

    run_async(whole())
