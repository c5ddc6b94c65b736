"""The parts of the embedded sandboxes that need no sandbox: command lines, disk, /proc, marks, sweeping."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palaestra.sandboxes import SandboxSpec
from palaestra.sandboxes._embedded import watch
from palaestra.sandboxes._embedded.disk import DiskMeter
from palaestra.sandboxes._embedded.hosted import sweep
from palaestra.sandboxes._embedded.watch import Watch, start_time
from palaestra.sandboxes._inside import program
from palaestra.sandboxes._inside.cell import children, descendants
from palaestra.sandboxes.sandbox import require_call


@pytest.mark.parametrize(
    ("argv", "kind", "args"),
    [
        (("python3", "-c", "x", "a", "-b"), "-c", ("a", "-b")),
        (("python3", "-u", "-B", "-c", "x"), "-c", ()),
        (("python3", "-"), "-", ()),
        (("python3", "-", "a"), "-", ("a",)),
    ],
)
def test_plain_command_lines_need_no_exec(argv: tuple[str, ...], kind: str, args: tuple[str, ...]) -> None:
    found = program.parse(argv)
    assert found is not None and (found.kind, found.args) == (kind, args)


@pytest.mark.parametrize(
    "argv",
    [
        ("python3",),
        ("python3", "-c"),
        ("python3", "-m", "this"),
        ("python3", "-I", "-c", "x"),
        ("python3", "-O", "-c", "x"),
        ("python3", "-cx"),
        ("python3", "missing.py"),
        ("python3", "-c", "\udce9"),
        ("python3", "-V"),
    ],
)
def test_what_only_a_fresh_interpreter_can_honour_takes_exec(argv: tuple[str, ...]) -> None:
    assert program.parse(argv) is None


def test_the_disk_meter_counts_bytes_entries_depth_and_unlinked_files(tmp_path: Path) -> None:
    assert not DiskMeter(str(tmp_path), 1).is_over([])
    (tmp_path / "big").write_bytes(b"x" * (2 << 20))
    assert DiskMeter(str(tmp_path), 1).is_over([])
    with (tmp_path / "big").open() as held:
        (tmp_path / "big").unlink()
        assert not DiskMeter(str(tmp_path), 1).is_over([])
        assert DiskMeter(str(tmp_path), 1).is_over([os.getpid()])
        assert held.readable()
    deep = tmp_path.joinpath(*["d"] * 140)
    deep.mkdir(parents=True)
    assert DiskMeter(str(tmp_path), 1).is_over([])


def test_a_watch_adds_up_a_tree_of_processes() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & echo; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        found = list(descendants(shell.pid))
        assert len(found) == 2 and all(map(start_time, found))
        assert Watch(64, 2, lambda: found).check().is_full
        assert Watch(64, 1, lambda: found).check().broken == "pids"
        assert Watch(64, 9, lambda: found).check().broken is None
        for pid in found:
            os.kill(pid, 9)
    assert start_time(shell.pid) == 0 and Watch(1, 9, lambda: found).check().broken is None
    assert Watch(1, 9999, lambda: [os.getpid()]).check().broken == "oom"


SHARING = """
import os
kept = b'x' * (32 << 20)
reader, writer = os.pipe()
for _ in range(3):
    if not os.fork():
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
print(flush=True)
input()
"""


def test_a_watch_that_counts_forks_weighs_what_is_shared_once() -> None:
    with subprocess.Popen([sys.executable, "-c", SHARING], stdin=-1, stdout=-1) as family:
        assert family.stdout is not None
        family.stdout.readline()
        members = [family.pid, *descendants(family.pid)]
        for limit_mb, verdict in ((96, None), (24, "oom")):
            found, others = Watch(limit_mb, 9, lambda: members, kernel_counts=False), children(os.getpid())
            assert found.check().broken is None  # it is being weighed
            (weigher,) = {*children(os.getpid())} - {*others}
            os.waitpid(weigher, 0)
            assert found.check().broken == verdict
        for pid in reversed(members):
            os.kill(pid, 9)


def test_a_watch_tells_who_uses_most() -> None:
    code = "kept = b'x' * (32 << 20)\nopen('/dev/null', 'wb').write(kept)\nprint(flush=True); input()"
    with (
        subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as large,
        subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & echo; wait"], stdout=-1) as many,
    ):
        assert large.stdout is not None and many.stdout is not None
        large.stdout.readline()
        many.stdout.readline()
        one, three = [large.pid], [many.pid, *descendants(many.pid)]
        found = Watch(64, 9, list)
        assert found.use(one, "oom") > (32 << 20) > found.use(three, "oom") > 0
        assert (found.use(one, "pids"), found.use(three, "pids")) == (1, 3)
        assert watch.written(large.pid) > (32 << 20) > watch.written(many.pid)
        for pid in (*one, *reversed(three)):
            os.kill(pid, 9)
    assert watch.written(large.pid) == 0


OPENING_AND_CLOSING = """
import os, socket
kept = [socket.socketpair() for _ in range(50)]
lowest = kept[0][0].fileno()
os.dup2(1, lowest)
print(flush=True)
while True: os.close(lowest); os.dup2(1, lowest)
"""


def test_a_descriptor_that_comes_and_goes_hides_no_socket() -> None:
    with subprocess.Popen([sys.executable, "-c", OPENING_AND_CLOSING], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        seen = {len(watch.sockets(program.pid)) for _ in range(100)}
        program.kill()
    assert seen == {99}


MARKED = """
import os, resource
from palaestra.sandboxes._inside.brand import brand, brand_of

if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
brand(7)
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.dup2(writer, 1)
        os.execvp("sh", ["sh", "-c", "echo $$; exec sleep 60"])
    os._exit(0)
os.wait()
orphan = int(os.read(reader, 99))
print(brand_of(os.getpid()), brand_of(orphan), brand_of(1 << 30))
os.kill(orphan, 9)
if os.fork() == 0:
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    resource.setrlimit(resource.RLIMIT_RTTIME, (hard - 1, hard - 1))
    print(brand_of(os.getpid()), flush=True)
    os._exit(0)
os.wait()
try:
    brand(6)
except ValueError:
    print("refused")
"""


def test_a_job_s_mark_is_on_every_process_that_it_leaves_and_makes_none_of_another_job() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", MARKED], capture_output=True, check=True)
    assert done.stdout == b"7 7 0\n0\nrefused\n"


def _named(pid: int, started: object) -> Path:
    return Path(f"/dev/shm/palaestra-{os.stat('/proc/self/ns/pid').st_ino}-{pid}-{started}")


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[tuple[Path, ...]]:
    """A living supervisor's directory, and what any user may put beside it under such a name."""
    alive = _named(os.getpid(), start_time(os.getpid()))
    link, odd, foreign = _named(999_999_999, 1), _named(999_999_998, "x"), _named(999_999_997, 1)
    (tmp_path / "target").mkdir(mode=0o755)
    link.symlink_to(tmp_path / "target")
    for directory in (alive, odd, foreign):
        directory.mkdir()
    if os.geteuid() == 0:
        os.chown(foreign, 4321, 4321)
    yield (alive, link, odd, foreign) if os.geteuid() == 0 else (alive, link, odd)
    link.unlink()
    for directory in (alive, odd, foreign):
        shutil.rmtree(directory, ignore_errors=True)


def test_a_sweep_touches_only_what_its_own_supervisors_left(
    planted: tuple[Path, ...], tmp_path: Path
) -> None:
    left = _named(999_999_996, 1)
    (left / "workspace").mkdir(parents=True)
    sweep()
    assert not left.exists() and all(map(os.path.lexists, planted))
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpus": 0},
        {"cpus": float("nan")},
        {"cpus": float("inf")},
        {"pids": -1},
        {"env": {"": "x"}},
        {"env": {"A=B": "x"}},
        {"env": {"A": "x\0"}},
        {"env": {"A": "\ud800"}},
        {"env": {"A": 1}},
    ],
)
def test_a_spec_that_no_sandbox_can_be_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"SandboxSpec.{next(iter(wrong))}"):
        SandboxSpec(**wrong)


@pytest.mark.parametrize(
    ("argv", "options", "field"),
    [
        ("true", {}, "argv"),
        ([], {}, "argv"),
        (["a\0"], {}, "argv"),
        (["\ud800"], {}, "argv"),
        (["true"], {"timeout_s": 0.0}, "timeout_s"),
        (["true"], {"timeout_s": float("nan")}, "timeout_s"),
        (["true"], {"output_limit": -1}, "output_limit"),
    ],
)
def test_a_call_that_no_sandbox_can_honour_is_refused_at_once(
    argv: Any, options: dict[str, Any], field: str
) -> None:
    options = {"timeout_s": 1.0, "output_limit": 0, **options}
    with pytest.raises(ValueError, match=field):
        require_call(argv, **options)


def test_importing_sandboxes_loads_nothing_heavy() -> None:
    code = "import sys, palaestra.sandboxes; print({'docker', 'ctypes', 'asyncio.events'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"set()\n"


REAPING = """
import os, signal, socket, sys
from palaestra.sandboxes._inside.loop import Loop
from palaestra.sandboxes._inside.wire import Inbox, Outbox

class Home:
    num_kills = 0
    first_look_s = 1.0

    def kill_all(self):
        self.num_kills += 1
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and still to be reaped
            except (ProcessLookupError, ChildProcessError):
                continue

pids = []
ours, theirs = socket.socketpair()
home = Home()
loop = Loop(Inbox(ours.fileno()), Outbox(ours.fileno()), home, memory_mb=64, has_network=False)
for _ in range(100):
    if (pid := os.fork()) == 0:
        signal.pause()
    pids.append(pid)
loop._kill_all()
print(home.num_kills)
"""


def test_what_a_program_left_is_looked_for_twice_and_not_once_for_each_dead() -> None:
    """A look goes over them all: once for each, 30,000 would take hours."""
    done = subprocess.run([sys.executable, "-c", REAPING], capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (b"2\n", b"")


def test_the_tasks_of_a_user_are_counted_and_no_other_s() -> None:
    assert watch.tasks_of(os.getpid(), os.getuid()) == len(os.listdir("/proc/self/task"))
    assert watch.tasks_of(os.getpid(), os.getuid() + 1) == 0
