"""What a tier promises less than the others, and why: `Sandbox.capabilities().refused`."""

from collections.abc import Mapping

REFUSED: Mapping[str, Mapping[str, str]] = {
    "landlock": {
        "disk-quota": "files lie on the host's own disk, where no quota can be set without mounting: the "
        "supervisor adds them up while a program runs, and one that goes over ends as killed, too late",
        "allow-list": "without a network namespace a program has no loopback of its own on which to find the "
        "proxy: every socket is refused",
        "proc": "without a pid namespace /proc would show the host's processes, so it is closed altogether",
    },
}
"""By tier, and by the name of what it refuses."""
