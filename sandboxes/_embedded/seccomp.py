"""The system-call filter: a deny-list, so that a newer glibc keeps working.

What is denied reaches into other processes, mounts, namespaces and the kernel, or holds memory that no
limit counts. clone3 answers ENOSYS, because its flags lie in memory that a filter cannot read and glibc
then falls back to clone.
"""

import ctypes
import errno
import stat
import struct

from .._inside import linux

_X86_64 = 0xC000003E
_X32_BIT = 0x40000000
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LD, _JA, _JEQ, _JGE, _JSET, _AND, _RET = 0x20, 0x05, 0x15, 0x35, 0x45, 0x54, 0x06
_NR, _ARCH = 0, 4

_NAMESPACES = (
    linux.NEWNS | linux.NEWUTS | linux.NEWIPC | linux.NEWUSER | linux.NEWPID | linux.NEWNET
) | linux.NEWCGROUP

_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR, _IOCTL, _PRCTL = 56, 435, 41, 53, 16, 157
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR = 0x40086602, 0x401C5820
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_TYPE_MASK, _SOCK_STREAM, _SOCK_SEQPACKET = 0xF, 1, 5

_DENIED = {
    "mounts and roots": (165, 166, 155, 161, 428, 429, 430, 431, 432, 433, 442, 457, 458, 467),
    "unshare, setns": (272, 308),
    "ptrace, process_vm_*, kcmp, process_madvise, process_mrelease, pidfd_getfd": (
        *(101, 310, 311, 312, 440, 448, 438),
    ),
    "bpf, perf_event_open, userfaultfd, io_uring": (321, 298, 323, 425, 426, 427),
    "keyrings": (248, 249, 250),
    "modules, kexec, reboot, swap, syslog, acct, quotactl": (
        *(174, 175, 176, 313, 246, 320, 169, 167, 168, 103, 163, 179, 443),
    ),
    "nfsservctl, lookup_dcookie, iopl, ioperm, modify_ldt, vhangup, personality": (
        *(180, 212, 172, 173, 154, 153, 135),
    ),
    "file handles and fanotify": (303, 304, 300, 301),
    "clocks and host names": (227, 164, 159, 305, 170, 171),
    "file_setattr: flags of a file or directory, as the ioctls that are denied below": (469,),
    "processor affinity, which is the cpus limit": (203,),
    "migrate_pages, move_pages": (256, 279),
    "memory outside every count: memfd, memfd_secret, SysV and POSIX queues": (319, 447, 29, 68, 64, 240),
}

# (call, index of its pid argument): only 0, the caller, is allowed. The supervisor has the same uid.
_OWN_PID_ONLY = ((302, 0), (142, 0), (144, 0), (314, 0))
# setpriority and ioprio_set: 0 is the caller there too, but not for all processes of a user, the last kind.
_OWN_PRIORITY_ONLY = {141: 2, 251: 3}

# Unix sockets by path or abstract name pass Landlock: connect, bind, listen, accept, accept4.
_NAMED_SOCKETS = (42, 49, 50, 43, 288)
_INOTIFY_ADD_WATCH = 254
# chmod, chown, utime, xattr in all their forms: what Landlock lets a file's owner do outside its rules.
OWNER_CALLS = (
    *(90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199, 463, 466),
)
# What overlayfs would read as its own notes in the files that a fork begins with: attributes (in all forms of
# setting one, as on a file system without any), devices that are whiteouts, and renames that leave one.
_SETXATTR = (188, 189, 190, 463)
_MKNOD, _MKNODAT, _RENAMEAT2, _RENAME_WHITEOUT = 133, 259, 316, 4
# kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal.
_SIGNALS = (62, 200, 234, 129, 297, 424)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _argument(index: int) -> bytes:
    """Load the low half of an argument: every one that is tested below is a C int."""
    return _op(_LD, 16 + 8 * index)


def _refuse(code: int = errno.EPERM) -> bytes:
    return _op(_RET, _ERRNO | code)


def _search(verdicts: list[tuple[int, bytes]]) -> bytes:
    """A binary search by call number (in ascending order); each call's code ends in a verdict.

    When a filter is installed, the kernel walks it once for each number of a call: a list of tests would cost
    0.3 ms of processor time a sandbox.
    """
    if not verdicts:
        return _op(_RET, _ALLOW)
    if len(verdicts) == 1:
        number, body = verdicts[0]
        return _op(_JEQ, number, 0, len(body) // 8) + body + _op(_RET, _ALLOW)
    middle = len(verdicts) // 2
    below, above = _search(verdicts[:middle]), _search(verdicts[middle:])
    return _op(_JGE, verdicts[middle][0], 0, 1) + _op(_JA, len(below) // 8) + below + above


def _only(index: int, mask: int, allowed: tuple[int, ...]) -> bytes:
    """Allow the call when (argument & mask) is one of `allowed`."""
    tests = [_op(_JEQ, value, len(allowed) - at, 0) for at, value in enumerate(allowed)]
    return _argument(index) + _op(_AND, mask) + b"".join(tests) + _refuse() + _op(_RET, _ALLOW)


class Filter:
    """A filter program as the kernel takes it, ready in memory before any fork."""

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(self._code))
        self._fprog = ctypes.create_string_buffer(header, len(header))
        self._address = ctypes.addressof(self._fprog)

    def install(self) -> None:
        """Bind this process and its children to the filter, for good."""
        linux.prctl(linux.PR_SET_SECCOMP, 2, self._address)


def build_filter(*, in_namespaces: bool, signals: bool = True, also: tuple[int, ...] = ()) -> Filter:
    """The filter. Without namespaces it is the wall around the network too: no socket but a connected pair.

    `signals=False` forbids signals, for a kernel that cannot hold them inside. `also`: more calls to deny.
    """
    calls = {number: _refuse() for group in _DENIED.values() for number in group}
    calls |= {number: _refuse() for number in also}
    calls |= {number: _only(index, 0xFFFFFFFF, (0,)) for number, index in _OWN_PID_ONLY}
    for number, of_user in _OWN_PRIORITY_ONLY.items():
        is_of_user = _argument(0) + _op(_JGE, of_user, 0, 1)
        calls[number] = is_of_user + _refuse() + _only(1, 0xFFFFFFFF, (0,))
    calls[_CLONE3] = _refuse(errno.ENOSYS)
    calls[_CLONE] = _argument(0) + _op(_JSET, _NAMESPACES, 0, 1) + _refuse() + _op(_RET, _ALLOW)
    denied = (_TIOCSTI, _TIOCLINUX, _FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR)
    is_denied = [_op(_JEQ, value, len(denied) - at, 0) for at, value in enumerate(denied)]
    calls[_IOCTL] = _argument(1) + b"".join(is_denied) + _op(_RET, _ALLOW) + _refuse()
    # Unreadable to its supervisor, a process could hide what it uses.
    is_hiding = _op(_JEQ, linux.PR_SET_DUMPABLE, 0, 3) + _argument(1) + _op(_JEQ, 0, 0, 1)
    calls[_PRCTL] = _argument(0) + is_hiding + _refuse() + _op(_RET, _ALLOW)
    if in_namespaces:
        calls[_SOCKET] = _only(0, 0xFFFFFFFF, (_AF_UNIX, _AF_INET, _AF_INET6))
        calls |= {number: _refuse(errno.EOPNOTSUPP) for number in _SETXATTR}
        is_device = _op(_AND, stat.S_IFMT(0xFFFFFFFF)) + _op(_JEQ, stat.S_IFCHR, 0, 1)
        for number, mode in ((_MKNOD, 1), (_MKNODAT, 2)):
            calls[number] = _argument(mode) + is_device + _refuse() + _op(_RET, _ALLOW)
        leaves_one = _op(_JSET, _RENAME_WHITEOUT, 0, 1)
        calls[_RENAMEAT2] = _argument(4) + leaves_one + _refuse(errno.EINVAL) + _op(_RET, _ALLOW)
    else:
        # A datagram pair could be pointed at any path afterwards, with connect or sendmsg.
        calls[_SOCKETPAIR] = _only(1, _SOCK_TYPE_MASK, (_SOCK_STREAM, _SOCK_SEQPACKET))
        calls |= {number: _refuse() for number in (_SOCKET, *_NAMED_SOCKETS, _INOTIFY_ADD_WATCH)}
    if not signals:
        calls |= {number: _refuse() for number in _SIGNALS}
    is_native = _op(_LD, _ARCH) + _op(_JEQ, _X86_64, 1, 0) + _refuse(errno.ENOSYS)
    is_64_bit = _op(_LD, _NR) + _op(_JGE, _X32_BIT, 0, 1) + _refuse(errno.ENOSYS)
    return Filter(is_native + is_64_bit + _search(sorted(calls.items())))
