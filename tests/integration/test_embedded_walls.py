"""What a program in an embedded sandbox cannot do or reach, tried by programs that do their worst."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded_box import leaves_nothing, on_each_tier, play, printed, python

from palaestra.sandboxes import Sandbox


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
for request in (0x5412, 0x541C, 0x40086602, 0x401C5820):
    ctypes.set_errno(0)
    assert libc.syscall(16, 0, request, 0) == -1 and ctypes.get_errno() == errno.EPERM, request
for number, *arguments in ((302, 1, 0, 0, 0), (141, 0, 1, 5), (141, 2, 0, 5), (251, 1, 1, 0), (251, 3, 0, 0),
                           (144, 1, 0, 0), (203, 1, 0, 0)):
    ctypes.set_errno(0)
    assert libc.syscall(number, *arguments) == -1 and ctypes.get_errno() == errno.EPERM, number
assert libc.syscall(141, 0, 0, 5) == 0 == libc.syscall(251, 1, 0, 3 << 13)
print("refused")
"""


@on_each_tier
def test_dangerous_system_calls_are_refused(tier: str) -> None:
    assert printed(python(tier, SYSTEM_CALLS)) == "refused"


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


INTRUDER = """
import os, time
end = time.monotonic() + 1
while time.monotonic() < end:
    last = max(map(int, filter(str.isdigit, os.listdir("/proc"))))
    for path in [f"/proc/{pid}/fd/{fd}" for pid in range(last, last + 3) for fd in range(3, 10)]:
        try: found = os.listdir(path)
        except OSError: continue
        if int(path.split("/")[2]) != os.getpid(): print(path, found)
"""


@pytest.mark.parametrize("tier", ["namespaces"])
def test_a_program_cannot_reach_what_the_next_one_holds_open_before_it_begins(tier: str) -> None:
    async def part(box: Sandbox) -> None:
        intruder = await box.start(["python3", "-c", INTRUDER])
        while intruder.poll() is None:
            await box.run(["true"])
        assert [chunk.data async for chunk in intruder.chunks()] == []

    play(tier, part)


PLANTER = """
import ctypes, errno, os, stat
libc = ctypes.CDLL(None, use_errno=True)
os.mkdir("sub")
for path in ("file", "sub/file", "old"): open(path, "w").close()
def said(action, *args):
    try: action(*args)
    except OSError as error: return error.errno
for path, name, value in ((".", "opaque", b"x"), ("file", "whiteout", b""), ("file", "metacopy", b""),
                          ("sub", "redirect", b"/..")):
    assert said(os.setxattr, path, "user.overlay." + name, value) == errno.EOPNOTSUPP, name
assert said(os.mknod, "device", stat.S_IFCHR | 0o666, 0) == errno.EPERM
assert libc.syscall(133, b"device", 0o20666, 0) == -1 and ctypes.get_errno() == errno.EPERM
assert libc.syscall(316, -100, b"old", -100, b"new", 4) == -1 and ctypes.get_errno() == errno.EINVAL
assert libc.syscall(316, -100, b"old", -100, b"new", 1 << 0) == 0
os.mkfifo("fifo")
os.mknod("plain")
"""


@pytest.mark.parametrize("tier", ["namespaces"])
def test_a_program_cannot_plant_what_a_fork_would_take_for_its_own_notes(tier: str) -> None:
    async def part(box: Sandbox) -> None:
        printed(await box.run(["python3", "-c", PLANTER]))
        twin = await box.fork()
        names = ["fifo", "file", "new", "plain", "sub/"]
        assert await box.list() == await twin.list() == names
        assert await twin.read("file") == b""
        await twin.close()

    play(tier, part)
