"""Landlock: which files a process and its children may touch, by system call, without any privilege.

A ruleset names the directories that stay usable; everything else is refused, for good.
"""

import ctypes
import os
import stat
import struct

from .._inside import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ALL_BEFORE_5 = (1 << 15) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3

READ = _EXECUTE | _READ_FILE | _READ_DIR
USE_DEVICE = _READ_FILE | _WRITE_FILE
CHANGE = _ALL_BEFORE_5

MIN_VERSION = 3
"""The first that controls truncation (Linux 6.2)."""
SCOPES_SIGNALS = 6
"""The first that keeps signals inside (Linux 6.12)."""


def version() -> int:
    """The kernel's Landlock version; 0 when there is none."""
    try:
        return linux.syscall("landlock", _CREATE_RULESET, 0, 0, _VERSION)
    except OSError:
        return 0


class Ruleset:
    """What stays allowed. Built before it binds anybody; `restrict` binds the caller."""

    def __init__(self, version: int) -> None:
        self._handled = _ALL_BEFORE_5 | (_IOCTL_DEV if version >= 5 else 0)
        attributes = struct.pack("Q", self._handled)
        if version >= 4:
            attributes += struct.pack("Q", _TCP)
        if version >= SCOPES_SIGNALS:
            attributes += struct.pack("Q", _ABSTRACT_SOCKETS_AND_SIGNALS)
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        self._fd = linux.syscall(
            "landlock_create_ruleset", _CREATE_RULESET, ctypes.addressof(buffer), len(attributes), 0
        )

    def allow(self, path: str, access: int) -> None:
        """Allow `access` at `path` and below. A path that does not exist allows nothing."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                access &= _OF_FILES
            rule = struct.pack("=Qi", access & self._handled, fd)
            buffer = ctypes.create_string_buffer(rule, len(rule))
            linux.syscall(
                f"landlock_add_rule {path}", _ADD_RULE, self._fd, _PATH_BENEATH, ctypes.addressof(buffer), 0
            )
        finally:
            os.close(fd)

    def restrict(self) -> None:
        """Bind this process and its children. Needs no_new_privs."""
        linux.syscall("landlock_restrict_self", _RESTRICT_SELF, self._fd, 0)
