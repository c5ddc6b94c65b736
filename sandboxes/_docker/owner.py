"""Whose container is whose: the labels that every one carries."""

import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

LABEL = "palaestra"
RUN_VARIABLE = "PALAESTRA_RUN"
"""The environment variable that names the run, for the label; `palaestra train` and `eval` set it."""

_TOKEN = uuid.uuid4().hex


def labels() -> dict[str, str]:
    """Of a container that this process makes.

    >>> labels()["palaestra.run"]
    'quickstart'
    """
    run = os.environ.get(RUN_VARIABLE) or f"process-{os.getpid()}"
    return {LABEL: "1", f"{LABEL}.run": run, f"{LABEL}.host": host_label(), f"{LABEL}.owner": our_label()}


def host_label() -> str:
    """The machine (or container) whose process ids the owner label counts in."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def our_label() -> str:
    """Names this process, and nothing else ever."""
    return owner_label(os.getpid()) or f"/{os.getpid()}/{_TOKEN}"


def owner_label(pid: int) -> str | None:
    """Names a process for all time: boot, pid and start time. None when there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
    return f"{boot}/{pid}/{started}"


def is_gone(owner: str) -> bool:
    """Whether the process that `owner` names has ended; nobody can tell on a system without /proc."""
    boot, _, rest = owner.partition("/")
    return bool(boot) and owner_label(int(rest.split("/")[0])) != owner
