"""Programs that ask the kernel for more than is theirs. The numbers are those of x86-64."""

import asyncio
import json
import os

from .driving import end, start_driver
from .row import Broken, expect, held, row
from .target import Target

REFUSED = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, number, *arguments, code=errno.EPERM):
    ctypes.set_errno(0)
    got = libc.syscall(number, *arguments, *[0] * (6 - len(arguments)))
    if got != -1: print(name, "worked")
    elif ctypes.get_errno() != code: print(name, "says", errno.errorcode.get(ctypes.get_errno()))
"""
MOUNTS = (
    REFUSED
    + """
import os
for name, number in dict(mount=165, umount2=166, pivot_root=155, chroot=161, open_by_handle_at=304,
                         open_tree=428, fsopen=430, fspick=433, fsconfig=431, fsmount=432, move_mount=429,
                         mount_setattr=442, swapon=167, swapoff=168).items():
    refused(name, number)
refused("mount of a tmpfs", 165, b"x", b"/tmp", b"tmpfs", 0, 0)
refused("lazy umount", 166, b"/tmp", 2)
refused("chroot to here", 161, b".")
try: os.chroot("/tmp"); print("chroot worked")
except OSError: pass
print("done")
"""
)


@row(22, "no mount, no other root, no file by handle")
async def mounts(target: Target) -> str:
    held(await target.python(MOUNTS))
    return "mount, umount, pivot_root, chroot, open_by_handle_at, and the newer calls: EPERM"


NAMESPACES = (
    REFUSED
    + """
flags = dict(time=0x80, mount=0x20000, cgroup=0x2000000, uts=0x4000000, ipc=0x8000000, user=0x10000000,
             pid=0x20000000, net=0x40000000)
for name, flag in flags.items():
    refused(f"unshare of {name}", 272, flag)
    if name != "time": refused(f"clone with a new {name}", 56, flag | 17)
    refused(f"setns to {name}", 308, 0, flag)
refused("clone of a user with all", 56, 0x7E020000 | 17)
refused("clone3", 435, 0, 88, code=errno.ENOSYS)
print("done")
"""
)


@row(23, "no namespace of its own, and none of another's")
async def namespaces(target: Target) -> str:
    held(await target.python(NAMESPACES))
    return "unshare, clone and setns of every kind: EPERM; clone3: ENOSYS"


CALLS = (
    REFUSED
    + """
for name, number in dict(bpf=321, perf_event_open=298, userfaultfd=323, io_uring_setup=425,
                         io_uring_enter=426, io_uring_register=427, keyctl=250, add_key=248,
                         request_key=249, kexec_load=246, kexec_file_load=320, init_module=175,
                         finit_module=313, delete_module=176,
                         reboot=169, acct=163, syslog=103, iopl=172, ioperm=173, quotactl=179,
                         sethostname=170, setdomainname=171, fanotify_init=300, pidfd_getfd=438,
                         kcmp=312).items():
    refused(name, number)
import os
for number in (0x40000000 + 39, 0x40000000 + 165):  # x32: refused, or the end of whoever tries
    if (pid := os.fork()) == 0: os._exit(libc.syscall(number, 0, 0, 0, 0, 0) != -1)
    if os.waitpid(pid, 0)[1] == 256: print("x32 call", number, "worked")
print("done", flush=True)
"""
)


@row(25, "the kernel's dangerous calls are refused")
async def calls(target: Target) -> str:
    held(await target.python(CALLS))
    return "bpf, perf_event_open, userfaultfd, io_uring, keyrings, kexec, modules and more: EPERM"


TERMINAL = """
import fcntl, os, struct, termios
typed = "injected\\n"
def type_into(fd, name):
    for request in (0x5412, 0x541C):
        try:
            for letter in typed: fcntl.ioctl(fd, request, letter.encode())
            print("typed into", name, "by", hex(request))
        except OSError: pass
    try: fcntl.ioctl(fd, termios.TIOCSCTTY, 1); print("took", name)
    except OSError: pass
for fd in (0, 1, 2): type_into(fd, fd)
try: os.setsid()
except OSError: pass
paths = ["/dev/tty", "/dev/console", "/dev/tty0", "/dev/vcs", "/dev/ttyS0"]
try: paths += [f"/dev/pts/{name}" for name in os.listdir("/dev/pts") if name.isdigit()]
except OSError: pass
for path in paths:
    try: fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    except OSError: continue
    print("opened", path)
    type_into(fd, path)
    os.write(fd, typed.encode())
print("done")
"""


@row(26, "the driver's terminal is out of reach")
async def terminals(target: Target) -> str:
    master, slave = os.openpty()
    driver = start_driver(
        target, {"stage": "terminal", "program": ["python3", "-c", TERMINAL]}, terminal=slave
    )
    try:
        os.close(slave)
        shown = await asyncio.to_thread(_until_closed, master)
    finally:
        end(driver)
        os.close(master)
    try:
        found = json.loads(shown)
    except ValueError as error:
        raise Broken(f"the driver's terminal shows {shown[-600:]!r}") from error
    expect(found["said"] == "done\n", f"a program got at a terminal: {found['said'].strip()}")
    expect(found["typed"] == "", f"the driver's terminal got the input {found['typed']!r}")
    return "TIOCSTI, TIOCLINUX, TIOCSCTTY, /dev/tty, /dev/console, every pts"


def _until_closed(master: int) -> str:
    """All that its other side writes."""
    shown = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # the last writer has closed it
            return shown.decode(errors="replace")
        if not data:
            return shown.decode(errors="replace")
        shown += data


PRIVILEGES = """
import ctypes, os, shutil, stat, subprocess
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(39, 0, 0, 0, 0) != 1: print("no_new_privs is not set")
if libc.prctl(21, 0, 0, 0, 0) != 2: print("there is no filter of system calls")
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
if libc.syscall(125, header, data) or any(data): print("capabilities:", list(data))
if os.getuid() == 0 or os.geteuid() == 0 or os.getgid() == 0: print("root")
for change in (os.setuid, os.setgid, os.setegid, os.seteuid):
    try: change(0); print("became root by", change.__name__)
    except OSError: pass
try: os.setgroups([0]); print("joined a group")
except OSError: pass
special = []
for base in ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/lib", "/usr/libexec"):
    for folder, below, names in os.walk(base):
        if folder.count("/") > 3: below.clear()
        for name in names:
            path = os.path.join(folder, name)
            try: found = os.lstat(path)
            except OSError: continue
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o6000: special.append(path)
print_id = "import os; print(os.geteuid(), os.getegid())"
plain = subprocess.run(["python3", "-c", print_id], capture_output=True, text=True).stdout
for path in special:
    does = path.endswith(("/su", "/sudo", "/newgrp", "/sg"))
    argv = [path, "-c", "true"] if does else [path, "--version"]
    try: done = subprocess.run(argv, capture_output=True, stdin=-3, timeout=1)
    except (OSError, subprocess.TimeoutExpired): continue
    if done.returncode == 0 and does: print("gained by", path)
with open("mine", "xb", opener=lambda path, flags: os.open(path, flags, 0o755)) as copy:
    with open(shutil.which("python3"), "rb") as original: shutil.copyfileobj(original, copy)
for mode in (0o6755, 0o4755):
    try: os.chmod("mine", mode)
    except OSError: continue
    try: shown = subprocess.run(["./mine", "-S", "-c", print_id], capture_output=True, text=True).stdout
    except OSError: continue
    if shown not in ("", plain): print("a copy with the setuid bit runs as", shown)
capability = bytes.fromhex("0000000200000020") + bytes(12)
try: os.setxattr("mine", "security.capability", capability); print("file capability set")
except OSError: pass
print("done")
"""


@row(27, "a program has no privilege, and no file gives it one")
async def privileges(target: Target) -> str:
    held(await target.python(PRIVILEGES, timeout_s=40, limits={"disk_mb": 32, "memory_mb": 128}))
    return "no_new_privs, no capability, every setuid file of the system, setuid copies, file capabilities"
