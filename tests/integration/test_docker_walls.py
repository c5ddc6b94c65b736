"""What a program in a Docker sandbox cannot do or reach, tried by programs that do their worst."""

import asyncio

import pytest
from docker_box import play, python
from support import require, run_async

from palaestra.sandboxes import SandboxSpec
from palaestra.sandboxes.docker import DockerSandbox, create_docker_sandbox

pytestmark = pytest.mark.docker


@pytest.fixture(autouse=True)
def _engine_is_there() -> None:
    require("docker")


def test_there_is_no_network() -> None:
    code = """
import errno, socket
for address in ("169.254.169.254", "172.17.0.1", "8.8.8.8"):
    try:
        socket.create_connection((address, 80), timeout=2)
    except OSError as error:
        assert error.errno == errno.ENETUNREACH, error
    else:
        raise SystemExit(address)
for family in (socket.AF_VSOCK, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_ALG):
    try:
        socket.socket(family, socket.SOCK_STREAM)
    except PermissionError:
        continue
    raise SystemExit(family)
with open("/proc/net/dev") as devices:
    print([line.split(":")[0].strip() for line in devices][2:])
"""

    async def part(box: DockerSandbox) -> None:
        assert await python(box, code) == "['lo']"

    play(part)


def test_nothing_of_the_host_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "canary-7f3a")

    async def part(box: DockerSandbox) -> None:
        seen = (await box.run(["sh", "-c", "cat /proc/*/environ /proc/*/cmdline 2>/dev/null; env"])).stdout
        assert b"canary-7f3a" not in seen
        assert b"COLOUR=green=blue" in seen
        assert b"HOME=/tmp/workspace" in seen

    play(part, env={"COLOUR": "green=blue"})


def test_a_program_is_nobody_and_the_root_is_read_only() -> None:
    code = """
import os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
assert os.getresuid() == (65534,) * 3 and os.getgroups() in ([], [65534]), os.getgroups()
assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
for path in ("/x", "/etc/x", "/dev/x", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/x"):
    try:
        open(path, "w")
    except OSError:
        continue
    raise SystemExit(path)
fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
assert fds[:3] == [0, 1, 2] and len(fds) == 4, fds  # the fourth is listdir's own
assert len(os.sched_getaffinity(0)) == 1
open("/tmp/x", "w").write("y")
print("walled")
"""

    async def part(box: DockerSandbox) -> None:
        assert await python(box, code) == "walled"

    play(part, cpus=0.5)


def test_a_program_cannot_touch_the_guest() -> None:
    code = """
import ctypes, os, signal
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, 0):
    try:
        os.kill(1, number)
    except PermissionError:
        continue
    raise SystemExit(str(number))
for path in ("/proc/1/fd", "/proc/1/mem", "/proc/1/environ", "/proc/1/root/etc", "/proc/1/oom_score_adj"):
    try:
        os.listdir(path) if path.endswith(("fd", "etc")) else open(path, "r+b")
    except PermissionError:
        continue
    raise SystemExit(path)
assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == -1
for path in ("/tmp/workspace", "/tmp/workspace/../workspace"):
    for act in (lambda: os.rename(path, "/tmp/other"), lambda: os.chmod(path, 0), lambda: os.rmdir(path)):
        try:
            act()
        except OSError:
            continue
        raise SystemExit(path)
try:
    os.kill(-1, signal.SIGKILL)
except (PermissionError, ProcessLookupError):
    print("walled")
"""

    async def part(box: DockerSandbox) -> None:
        assert await python(box, code) == "walled"

    play(part)


def test_files_round_trip_and_belong_to_the_program() -> None:
    async def part(box: DockerSandbox) -> None:
        data = bytes(range(256)) * 20_000
        await box.write("deep/er/data.bin", data)
        assert await box.read("deep/er/data.bin") == data
        assert await box.list() == ["deep/"]
        assert await box.list("deep/er/") == ["data.bin"]
        await box.write("deep/er/data.bin", b"")
        assert await box.read("./deep//er/data.bin") == b""
        assert (await box.run(["sh", "-c", "echo more >> deep/er/data.bin && mv deep other"])).ok
        assert await box.read("other/er/data.bin") == b"more\n"
        await box.run(["chmod", "-R", "000", "other"])
        await box.remove("other")
        assert await box.list() == []

    play(part)


def test_two_sandboxes_share_nothing() -> None:
    async def main() -> None:
        spec = SandboxSpec(backend="docker")
        one, two = await asyncio.gather(create_docker_sandbox(spec), create_docker_sandbox(spec))
        try:
            await one.run(["sh", "-c", "echo x | tee /tmp/workspace/a /tmp/b /dev/shm/c"])
            left = await two.run(["sh", "-c", "ls -A /tmp/workspace /dev/shm; ls -A /tmp"])
            assert left.stdout.split() == [b"/dev/shm:", b"/tmp/workspace:", b"workspace"]
        finally:
            await asyncio.gather(one.close(), two.close())

    run_async(main())
