"""Who may write a run folder: one process, on a local disk."""

import fcntl
import os
from pathlib import Path

from .errors import LedgerError

_NETWORK = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "lustre", "ceph", "glusterfs", "beegfs")


class RunLock:
    """An exclusive lock on a run folder; the kernel drops it when the process dies."""

    def __init__(self, folder: Path) -> None:
        path = folder / "run.lock"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"cannot write {path}: {error.strerror}; see that it is writable") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            self.release()
            raise LedgerError(
                f"{folder} is being written by process {owner or '?'}; wait for it, or use another run name"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Give the folder back. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def refuse_network_folder(folder: Path) -> None:
    """Raise `LedgerError` on a network file system, where SQLite's locks do not hold."""
    kind = _file_system(folder.resolve())
    if kind.startswith(_NETWORK):
        raise LedgerError(
            f"{folder} is on a network file system ({kind}), where a run file can be corrupted; "
            "put `runs_dir` on a local disk"
        )


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`, from the mount table."""
    best, kind = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        for line in table:
            left, _, right = line.partition(" - ")
            point = left.split()[4]
            if len(point) >= len(best) and (path == Path(point) or Path(point) in path.parents):
                best, kind = point, right.split()[0]
    return kind
