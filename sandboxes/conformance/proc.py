"""Processes of this machine and the driver's memory, as /proc shows them."""

import ctypes
import gc
from pathlib import Path

from .._embedded.watch import start_time


def name_of(pid: int) -> str:
    """Names a process for all time: no other ever has this number and this start."""
    try:
        command = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        command = "gone"
    return f"process {pid} ({command}), started at tick {start_time(pid)}"


def is_alive(pid: int, started: int) -> bool:
    """Whether it still is the process that started then, and no zombie, which only its parent can bury."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[19]) == started and fields[0] != "Z"


class MemoryPeak:
    """How much this process grows, at its highest, from here on."""

    def __init__(self) -> None:
        gc.collect()
        # Free memory that the allocator kept would hide growth.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status_kb("VmRSS")

    def grown(self) -> int:
        """Bytes over the beginning."""
        return max(0, _status_kb("VmHWM") - self._before) << 10


def _status_kb(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"/proc/self/status has no {field}")
