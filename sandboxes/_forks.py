"""Sockets that no fork of this process may hold: who waits for their end would wait for the fork too."""

import os
import socket
from weakref import WeakSet

_ours = WeakSet[socket.socket]()


def keep_from_forks(sock: socket.socket) -> None:
    """Close `sock` in every fork of this process, which would hold it when the driver has been killed."""
    _ours.add(sock)


def _close_in_fork() -> None:
    for sock in list(_ours):
        sock.close()


os.register_at_fork(after_in_child=_close_in_fork)
