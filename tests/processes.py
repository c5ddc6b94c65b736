"""Process groups and where they listen, as /proc shows them."""

import socket
import time
from contextlib import suppress
from pathlib import Path


def group(pgid: int) -> list[int]:
    """Living processes of a process group."""
    found = list[int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == pgid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until_gone(pgid: int) -> None:
    """Fails with what is left after half a minute."""
    until = time.monotonic() + 30
    while left := group(pgid):
        assert time.monotonic() < until, f"left over: {left}"
        time.sleep(0.05)


def listening(pgid: int) -> list[tuple[str, int]]:
    """(address, port) of each TCP socket on which a process of the group listens."""
    held = set[str]()
    for link in (link for pid in group(pgid) for link in Path("/proc", str(pid), "fd").iterdir()):
        with suppress(FileNotFoundError):  # closed meanwhile
            held.add(str(link.readlink()))
    found = list[tuple[str, int]]()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in held:
                address, port = local.split(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.append((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found
