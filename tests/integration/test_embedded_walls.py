"""What a program in an embedded sandbox cannot do or reach, tried by programs that do their worst."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from embedded_box import leaves_nothing, on_each_tier, play, printed, python, run

from palaestra.sandboxes import ExecStatus, Sandbox, SandboxFileError


@pytest.fixture(autouse=True)
def _nothing_is_left(tier: str) -> Iterator[None]:
    yield from leaves_nothing(tier)


SYSTEM_CALLS = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
calls = dict(unshare=272, setns=308, mount=165, umount2=166, pivot_root=155, chroot=161, bpf=321,
             perf_event_open=298, userfaultfd=323, io_uring_setup=425, keyctl=250, add_key=248, reboot=169,
             open_by_handle_at=304, name_to_handle_at=303, kexec_load=246, init_module=175, finit_module=313,
             clock_settime=227, settimeofday=164, swapon=167, ptrace=101, process_vm_readv=310,
             process_vm_writev=311, pidfd_getfd=438, open_tree=428, fsopen=430, mount_setattr=442,
             fanotify_init=300, syslog=103, personality=135, iopl=172, sethostname=170)
for name, number in calls.items():
    ctypes.set_errno(0)
    assert libc.syscall(number, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM, name
for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
    ctypes.set_errno(0)
    assert libc.syscall(56, flag | 17, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM, hex(flag)
for number in (435, 0x40000000 + 39):
    ctypes.set_errno(0)
    assert libc.syscall(number, 0, 0) == -1 and ctypes.get_errno() == errno.ENOSYS, number
for request in (0x5412, 0x541C):
    ctypes.set_errno(0)
    assert libc.syscall(16, 0, request, 0) == -1 and ctypes.get_errno() == errno.EPERM, request
for number, arguments in {302: (1, 0, 0, 0), 141: (0, 1, 5), 144: (1, 0, 0), 203: (1, 0, 0)}.items():
    ctypes.set_errno(0)
    assert libc.syscall(number, *arguments) == -1 and ctypes.get_errno() == errno.EPERM, number
print("refused")
"""


@on_each_tier
def test_dangerous_system_calls_are_refused(tier: str) -> None:
    assert printed(python(tier, SYSTEM_CALLS)) == "refused"


@on_each_tier
def test_no_socket_leads_anywhere(tier: str) -> None:
    code = """
import os, socket, sys
port, path, abstract = int(sys.argv[1]), sys.argv[2], "\\0" + sys.argv[3]
tries = [(2, 1, ("127.0.0.1", port)), (2, 1, ("169.254.169.254", 80)), (2, 2, ("8.8.8.8", 53)),
         (10, 1, ("::1", port)), (1, 1, path), (1, 1, abstract), (1, 2, abstract),
         (1, 1, "/var/run/docker.sock")]
for family, kind, address in tries:
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(1)
            s.connect(address)
            print("reached", address)
    except OSError:
        pass
for family, kind in ((40, 1), (16, 3), (17, 3), (38, 5), (2, 3), (10, 3)):
    try:
        socket.socket(family, kind).close()
        print("made", family, kind)
    except OSError:
        pass
try:
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.connect(abstract)
    print("turned a pair")
except OSError:
    pass
try: socket.getaddrinfo("example.com", 80); print("resolved")
except OSError: pass
left, right = socket.socketpair()
left.send(b"pairs still work")
print(right.recv(99).decode())
"""
    path = f"/tmp/palaestra-test-{os.getpid()}.sock"
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as tcp,
        closing(socket.socket(socket.AF_UNIX)) as by_path,
        closing(socket.socket(socket.AF_UNIX)) as abstract,
    ):
        by_path.bind(path)
        os.chmod(path, 0o777)
        by_path.listen()
        abstract.bind("\0" + path)
        abstract.listen()
        try:
            result = python(tier, code, str(tcp.getsockname()[1]), path, path)
        finally:
            os.unlink(path)
    assert printed(result) == "pairs still work"


@on_each_tier
def test_nothing_of_the_host_can_be_read_or_written(tier: str, tmp_path: Path) -> None:
    code = """
import os, sys
for path in (sys.argv[1], "/etc/shadow", "/etc/passwd", "/etc/hostname", "/root/.bash_history", "/proc/kcore",
             "/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/1/fd", "/sys", "/var", "/home", "/run",
             "/boot", "/dev/vda", "/dev/mem", "/dev/tty", "/dev/kmsg", "/proc/sysrq-trigger"):
    try:
        text = str(os.listdir(path)) if os.path.isdir(path) else open(path).read()
        if path != "/etc/passwd" or "sandbox" not in text: print("read", path, text[:100])
    except OSError: pass
for path in (sys.argv[1], os.path.dirname(sys.argv[1]) + "/new", "/usr/new", "/etc/new", "/new", "/dev/new",
             os.__file__, os.__file__ + ".new", "/proc/sys/kernel/hostname", sys.executable):
    try: open(path, "r+" if os.path.exists(path) else "w").close(); print("opened for writing", path)
    except OSError: pass
for path in (os.__file__, "/usr/bin/env", sys.argv[1]):
    for change, *arguments in ((os.chmod, 0o777), (os.utime, (1, 1)), (os.unlink,), (os.rename, "mine"),
                               (os.link, "mine"), (os.truncate, 0)):
        try: change(path, *arguments); print("changed", path)
        except OSError: pass
"""
    canary = tmp_path / "canary"
    canary.write_text("canary")
    canary.chmod(0o666)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/") and not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)
    assert printed(python(tier, code, str(canary))) == ""
    assert canary.read_text() == "canary" and os.listdir(tmp_path) == ["canary"]


@on_each_tier
def test_a_program_has_no_privilege_and_cannot_gain_one(tier: str) -> None:
    code = """
import ctypes, os, struct, subprocess, sys
assert os.getuid() == os.geteuid() != 0 and os.getuid() == os.getgid() or os.getuid() != 0
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(39, 0, 0, 0, 0) == 1, "no_new_privs"
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.syscall(125, header, data) == 0 and not any(data), list(data)
for change in (os.setuid, os.setgid):
    try: change(0); print("became root")
    except OSError: pass
for tool in ("su", "sudo", "mount", "ping", "newgrp", "passwd"):
    try: done = subprocess.run([tool, "-c", "true"], capture_output=True, stdin=-3, timeout=5)
    except OSError: continue
    if done.returncode == 0: print("gained by", tool)
print(os.umask(0o22) == 0o22, os.ctermid() and not os.isatty(0))
"""
    assert printed(python(tier, code)) == "True True"


@on_each_tier
def test_only_three_descriptors_are_open(tier: str) -> None:
    code = """
import os
found = []
for fd in range(1024):
    try: os.fstat(fd); found.append(fd)
    except OSError: pass
print(found)
"""
    for start in (["python3"], ["env", "python3"]):
        assert printed(run(tier, [*start, "-c", code])) == "[0, 1, 2]"


@on_each_tier
def test_a_program_can_neither_harm_its_supervisor_nor_forge_its_result(tier: str) -> None:
    code = """
import os, signal, sys
supervisor = os.getppid()
for number in set(range(1, 32)) - {signal.SIGCHLD}:
    for target in (supervisor, 1):
        try: os.kill(target, number)
        except OSError: pass
try: os.kill(-1, signal.SIGTERM)
except OSError: pass
for fd in range(3, 64):
    try: os.write(fd, b'{"seq": 1, "status": "ok", "exit_code": 0}'); print("wrote to", fd)
    except OSError: pass
for name in ("mem", "environ", "fd/3", "cwd", "root"):
    try: open(f"/proc/{supervisor}/{name}"); print("opened", name)
    except OSError: pass
print('{"seq": 1, "status": "ok", "exit_code": 0}')
sys.exit(3)
"""

    async def part(box: Sandbox) -> None:
        for _ in range(2):
            result = await box.run(["python3", "-c", code])
            assert (result.status, result.exit_code) == (ExecStatus.NONZERO, 3), result
            assert result.stdout == b'{"seq": 1, "status": "ok", "exit_code": 0}\n'

    play(tier, part)


@on_each_tier
def test_other_processes_of_the_host_are_out_of_sight(tier: str) -> None:
    code = """
import os
pids = [name for name in os.listdir("/proc") if name.isdigit()]
print(len(pids), *(open(f"/proc/{name}/cmdline").read().strip("\\0") for name in (1, "self")))
"""
    result = python(tier, code)
    if tier == "namespaces":
        assert printed(result) == "2"
    else:
        assert b"PermissionError" in result.stderr


@on_each_tier
def test_the_next_sandbox_finds_nothing_of_the_last(tier: str) -> None:
    dirt = (
        "import os, tempfile\nopen('left', 'w').close(); open(tempfile.gettempdir() + '/left', 'w').close()"
    )
    assert python(tier, dirt, limits={"env": {"LEFT": "1"}}).ok
    code = (
        "import os, tempfile; print(os.listdir('.'), os.listdir(tempfile.gettempdir()), 'LEFT' in os.environ)"
    )
    assert printed(python(tier, code)) == "[] [] False"


@on_each_tier
def test_files_round_trip_under_any_name(tier: str) -> None:
    names = ["plain", "a/b/c", "-rf", "new\nline", "sp ace", "caf\u00e9", "raw\udce9", "x" * 255, "$(id)"]

    async def part(box: Sandbox) -> None:
        for name in names:
            await box.write(name, b"first and longer")
            await box.write(name, name.encode(errors="surrogateescape"))
            assert await box.read(name) == name.encode(errors="surrogateescape")
        assert await box.list("a") == ["b/"] and await box.list("a/b") == ["c"]
        assert await box.list() == sorted({n if "/" not in n else "a/" for n in names})
        seen = await box.run(["python3", "-c", "import os; print(len(os.listdir()), open('a/b/c').read())"])
        assert printed(seen) == "9 a/b/c"
        for name in await box.list():
            await box.remove(name)
        assert await box.list() == []
        await box.write("big", bytes(5 << 20))
        assert await box.read("big") == bytes(5 << 20)

    play(tier, part)


@on_each_tier
def test_paths_that_are_not_plain_files_inside_are_refused(tier: str) -> None:
    traps = """
import os, socket
os.symlink("/etc/passwd", "link"); os.symlink("/", "root"); os.symlink("real", "alias"); os.mkfifo("pipe")
os.mkdir("real"); open("real/file", "w").close()
with open("sparse", "wb") as f:
    try: f.truncate(1 << 33)
    except OSError: f.truncate(1 << 27)
open("closed", "w").close(); os.open("x", os.O_CREAT); os.mkdir("d/" if 0 else "d")
"""
    refused = [
        *("link", "root/etc/passwd", "alias/file", "pipe", "real", "missing", "../outside", "/etc/passwd"),
        *(
            "",
            ".",
            "nul\0",
            "half\ud800",
            "x" * 256,
            "/".join("y" * 200 for _ in range(30)),
            "/dev/null",
            "real/../../x",
        ),
    ]

    async def part(box: Sandbox) -> None:
        assert (await box.run(["python3", "-c", traps])).ok
        for path in [*refused, "sparse"]:
            with pytest.raises(SandboxFileError):
                await box.read(path, max_bytes=1 << 20)
        for path in set(refused) - {"missing"}:
            with pytest.raises(SandboxFileError):
                await box.write(path, b"x")
        for path in ("root", "link", "alias", "pipe", "missing/below", "../outside"):
            with pytest.raises(SandboxFileError):
                await box.list(path)
        for path in ("..", "/", ".", "root/etc", "missing", "", "half\ud800"):
            with pytest.raises(SandboxFileError):
                await box.remove(path)
        for path in ("link", "root", "alias", "pipe", "real"):
            await box.remove(path)
        assert await box.list() == ["closed", "d/", "sparse", "x"]

    play(tier, part)
    assert Path("/etc/passwd").exists()


@on_each_tier
def test_a_directory_that_was_locked_against_its_owner_can_be_removed(tier: str) -> None:
    async def part(box: Sandbox) -> None:
        await box.write("a/b/c/d", b"x")
        await box.run(["sh", "-c", "chmod 0 a/b/c; chmod 0 a/b; chmod 0 a"])
        if os.geteuid() != 0 and tier == "landlock":
            # There chmod itself is refused.
            assert await box.read("a/b/c/d") == b"x"
        await box.remove("a")
        assert await box.list() == []

    play(tier, part)


@on_each_tier
def test_writing_replaces_a_read_only_file_and_leaves_its_hard_link_alone(tier: str) -> None:
    async def part(box: Sandbox) -> None:
        assert (await box.run(["sh", "-c", "echo old > file; ln file twin; chmod 444 file"])).ok
        await box.write("file", b"new")
        assert (await box.read("file"), await box.read("twin")) == (b"new", b"old\n")

    play(tier, part)
