"""Leave to fork, asked of the supervisor: the process limit where programs share their user with others.

The kernel's own limit counts all that a user has. Here each fork, and each new thread, waits until the
supervisor has counted the sandbox alone and lets it go on, or lets it fail with EAGAIN as the kernel would.
`man 2 seccomp_unotify`.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from .._inside.reactor import Reactor
from . import seccomp

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_QUESTION = struct.Struct("=QII64x")
"""Id, task that asks, flags; and the call itself, of which nothing is read: it is its own to change."""
_ANSWER = struct.Struct("=QqiI")
"""Id, value, error, flags."""
_GO_ON = 1
_UNSEEN_S = 0.02
"""How long a process that was granted may not have begun yet, and counts all the same."""


class ForkGate:
    """`count` gives the processes and threads that there are now."""

    def __init__(self, pids: int, count: Callable[[], int]) -> None:
        self._pids, self._count = pids, count
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._question = seccomp.build_question()
        self._granted: dict[int, float] = {}
        self.refused = 0
        """How many were not let go on."""

    def bind(self) -> None:
        """In the child, before any other filter: from here on it asks."""
        listener = self._question.install_with_listener()
        rights = array.array("i", [listener]).tobytes()
        self._theirs.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(listener)

    def attend(self, reactor: Reactor) -> None:
        """In the supervisor: answer, from now on."""
        reactor.watch(self._ours.fileno(), select.POLLIN, lambda: self._on_child(reactor))

    def _on_child(self, reactor: Reactor) -> None:
        with suppress(BlockingIOError):
            _, listeners, _, _ = socket.recv_fds(self._ours, 1, 1)
            for listener in listeners:
                reactor.watch(listener, select.POLLIN, partial(self._on_question, reactor, listener))

    def _on_question(self, reactor: Reactor, listener: int) -> None:
        question = bytearray(_QUESTION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, question)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            self._forget_if_deserted(reactor, listener)  # or only whoever asked has just been killed
            return
        number, task, _ = _QUESTION.unpack(question)
        answer = (0, 0, _GO_ON) if self._may_grow(task) else (0, -errno.EAGAIN, 0)
        with suppress(FileNotFoundError):  # killed meanwhile
            fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(number, *answer)))

    def _may_grow(self, task: int) -> bool:
        now = time.monotonic()
        # Whoever asks again has got what it was granted.
        self._granted = {t: until for t, until in self._granted.items() if until > now and t != task}
        if self._count() + len(self._granted) >= self._pids:
            self.refused += 1
            return False
        self._granted[task] = now + _UNSEEN_S
        return True

    @staticmethod
    def _forget_if_deserted(reactor: Reactor, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        if any(found & select.POLLHUP for _, found in poll.poll(0)):
            reactor.forget(listener)
            os.close(listener)
