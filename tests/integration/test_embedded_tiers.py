"""Which embedded tier a spec gets, on machines that allow different things. Each is made so for real."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from embedded_box import TIERS, need
from ordinary_user import OTHER_USER, need_root, python_for, run_as
from support import run_async

from palaestra.sandboxes import SandboxSpec, open_sandbox
from palaestra.sandboxes.selftest import self_test

pytestmark = pytest.mark.alone  # fork bombs, and limits that count all processes of a user

DRIVER = """
import asyncio, ctypes, json, os, struct, sys
from palaestra.sandboxes import SandboxSpec, SandboxUnavailable, open_sandbox
from palaestra.sandboxes._embedded import namespaces, seccomp
from palaestra.sandboxes._inside import linux
from palaestra.sandboxes.selftest import self_test

def forbid_namespaces():
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.NEWUSER)
    namespaces.map_ids(uid, gid, uid, gid)
    with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write("0")

def forbid_landlock():
    # Load the call's number; 444 is landlock_create_ruleset: ENOSYS, as on a kernel without it.
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7FFF0000)]
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.Filter(b"".join(struct.pack("HBBI", *op) for op in code)).install()

async def attempt(backend, code):
    try:
        async with open_sandbox(SandboxSpec(backend=backend, pids=8, disk_mb=8)) as box:
            result = await box.run(["python3", "-c", code])
            return [box.tier, str(result.status), result.stdout.decode()]
    except SandboxUnavailable as error:
        return ["unavailable", str(error), ""]

async def main():
    tests = {tier: dict((await self_test(tier)).walls) for tier in ("namespaces", "landlock")}
    runs = {backend: await attempt(backend, sys.argv[2]) for backend in ("auto", "namespaces", "landlock")}
    print(json.dumps({"tests": tests, "runs": runs}))

for name in sys.argv[1].split(): globals()[name]()
asyncio.run(main())
"""


def drive(*forbidden: str, code: str = "print(6 * 7)", user: int | None = None) -> dict[str, Any]:
    """What a driver finds on a machine that forbids these things."""
    done = run_as(user, [python_for(user), "-c", DRIVER, " ".join(forbidden), code])
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("tier", TIERS)
def test_every_wall_of_a_tier_is_tried_and_the_test_is_made_once(tier: str) -> None:
    need(tier)
    test = run_async(self_test(tier))
    assert set(test.walls) == {"memory", "pids", "disk", "network", "filesystem", "processes", "time"}
    assert set(test.proofs) == set(test.walls) and test.ok
    assert run_async(self_test(tier)) is test


def test_auto_takes_the_strongest_tier() -> None:
    need("namespaces")

    async def tier() -> str:
        async with open_sandbox() as box:
            return box.tier

    assert run_async(tier()) == "namespaces"


def test_an_unknown_backend_is_refused_by_name() -> None:
    async def attempt() -> None:
        with pytest.raises(
            ValueError, match="one of auto, namespaces, landlock, docker, unsafe-local; got 'chroot'"
        ):
            async with open_sandbox(SandboxSpec(backend="chroot")):
                pass

    run_async(attempt())


def test_an_ordinary_user_gets_every_wall_of_both_tiers() -> None:
    need_root()
    found = drive(user=OTHER_USER)
    for tier in TIERS:
        assert len(found["tests"][tier]) == 7 and not any(found["tests"][tier].values())
        assert found["runs"][tier] == [tier, "ok", "42\n"]
    assert found["runs"]["auto"][0] == "namespaces"


def test_an_ordinary_user_is_not_harmed_through_what_landlock_leaves_open() -> None:
    need_root()
    own = Path(f"/tmp/palaestra-test-{os.getpid()}")
    own.mkdir()
    own.chmod(0o755)
    os.chown(own, OTHER_USER, OTHER_USER)
    code = f"""
import os, signal
path = {str(own)!r}
# The kernel reports success for "everybody" even when it spared them all; the driver is one of them.
os.kill(-1, signal.SIGKILL)
for change in (lambda: os.chmod(path, 0), lambda: os.utime(path), lambda: os.chown(path, -1, -1),
               lambda: os.setxattr(path, "user.x", b""), lambda: os.listdir(path)):
    try: change(); print("changed")
    except OSError: pass
"""
    try:
        found = drive(code=code, user=OTHER_USER)
        assert found["runs"]["landlock"] == ["landlock", "ok", ""]
        assert own.stat().st_mode & 0o777 == 0o755
    finally:
        own.rmdir()


def test_a_bomb_that_outruns_the_watch_leaves_an_ordinary_user_s_machine_numbers_for_processes() -> None:
    need_root()
    found = drive(code="import resource; print(*resource.getrlimit(resource.RLIMIT_NPROC))", user=OTHER_USER)
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    soft, hard = map(int, found["runs"]["landlock"][2].split())
    assert soft == hard < most / 2


BOMBED = """
import asyncio, json, os, threading
from palaestra.sandboxes import SandboxSpec, open_sandbox
from palaestra.sandboxes.conformance.processes import LASTING_BOMB

def living():
    return sum(os.stat(f"/proc/{pid}").st_uid == os.getuid() for pid in os.listdir("/proc") if pid.isdigit())

def look():
    while not is_over.wait(0.02):
        try: seen.append(living())
        except FileNotFoundError: pass

async def main():
    async with open_sandbox(SandboxSpec(backend="landlock", pids=16, memory_mb=96)) as box:
        for _ in range(6):
            result = await box.run(["python3", "-c", LASTING_BOMB, "2"], timeout_s=30)
            print(result.status)

seen, is_over = [living()], threading.Event()
looker = threading.Thread(target=look)
looker.start()
asyncio.run(main())
is_over.set()
looker.join()
print(max(seen) - seen[0])
"""


def test_the_watch_ends_a_fork_bomb_before_it_is_large() -> None:
    """No kernel limit helps an ordinary user there. A list of a bomb's processes grows while it is read."""
    need_root()
    done = run_as(OTHER_USER, [python_for(OTHER_USER), "-c", BOMBED])
    assert done.returncode == 0, done.stderr.decode()
    *statuses, most = done.stdout.decode().split()
    assert set(statuses) == {"pids"} and int(most) < 300


@pytest.mark.parametrize("user", [None, OTHER_USER])
def test_without_user_namespaces_auto_takes_landlock_and_an_explicit_tier_is_refused(
    user: int | None,
) -> None:
    need_root()
    need("landlock")
    found = drive("forbid_namespaces", user=user)
    assert found["runs"]["auto"] == found["runs"]["landlock"] == ["landlock", "ok", "42\n"]
    kind, message, _ = found["runs"]["namespaces"]
    assert kind == "unavailable" and "sysctl -w user.max_user_namespaces" in message
    assert "landlock" not in message


def test_without_either_the_refusal_names_wall_reason_and_cure() -> None:
    need_root()
    found = drive("forbid_namespaces", "forbid_landlock", user=OTHER_USER)
    for backend in ("auto", *TIERS):
        assert found["runs"][backend][0] == "unavailable"
    message = found["runs"]["auto"][1]
    for part in ("namespaces tier", "landlock tier", "Linux 6.2", "max_user_namespaces", 'backend="docker"'):
        assert part in message
    assert "\n" not in message
