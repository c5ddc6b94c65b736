"""What the embedded tiers know of themselves: their zygote's descendants, mounts, directories."""

import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from .._embedded.watch import start_time
from .._embedded.zygotes import zygote
from .._inside.cell import children, descendants
from ..local import LocalSandbox
from ..sandbox import Sandbox
from .proc import name_of
from .target import View

_BASES = ("/dev/shm", "/tmp")


class EmbeddedView(View):
    """The view of "namespaces" or "landlock"."""

    settles_s = 0.25

    def __init__(self, tier: str) -> None:
        self._tier = tier

    def everything(self) -> frozenset[str]:
        keeper = zygote(self._tier).pid
        processes = {name_of(pid) for pid in descendants(os.getpid()) if pid != keeper}
        return frozenset({*processes, *_mounts(), *_directories(keeper)})

    def programs(self) -> Sequence[str]:
        supervisors = children(zygote(self._tier).pid)
        return [name_of(pid) for supervisor in supervisors for pid in descendants(supervisor)]

    def open_faults(self) -> Mapping[str, Callable[[], AbstractContextManager[object]]]:
        return {"the zygote is killed": self._killed_zygote, "the zygote is killed late": self._dying_zygote}

    def call_faults(self) -> Mapping[str, Callable[[Sandbox], object]]:
        return {"the supervisor is killed": self._kill_supervisor}

    @contextmanager
    def _killed_zygote(self) -> Generator[None, None, None]:
        self._kill_zygote()
        yield

    @contextmanager
    def _dying_zygote(self) -> Generator[None, None, None]:
        """Stopped, it takes the order to open; then it dies."""
        keeper = zygote(self._tier).pid
        os.kill(keeper, signal.SIGSTOP)
        # Nobody waits for it before the timer has gone off, so the number is still its own.
        killer = threading.Timer(0.2, os.kill, (keeper, signal.SIGKILL))
        killer.start()
        try:
            yield
        finally:
            killer.join()

    def _kill_zygote(self) -> None:
        os.kill(zygote(self._tier).pid, signal.SIGKILL)

    def _kill_supervisor(self, box: Sandbox) -> None:
        assert isinstance(box, LocalSandbox)
        zygote(self._tier).kill(box.number)


def _mounts() -> set[str]:
    """Of this process's mount namespace, but for a Docker engine's, which come and go by themselves."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {f"mount {line}" for line in lines if "/docker/" not in line}


def _directories(keeper: int) -> set[str]:
    """Workspaces on the host whose supervisor is dead or one of ours; those of other drivers are theirs."""
    mark = ["palaestra", str(os.stat("/proc/self/ns/pid").st_ino)]
    ours = set(descendants(keeper))
    found: set[str] = set()
    for base in filter(os.path.isdir, _BASES):
        for name in os.listdir(base):
            words = name.split("-")
            if len(words) == 4 and words[:2] == mark and all(map(str.isdecimal, words[2:])):
                pid, started = int(words[2]), int(words[3])
                if pid in ours or start_time(pid) != started:
                    found.add(f"directory {base}/{name}")
    return found
