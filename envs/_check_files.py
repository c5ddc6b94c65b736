"""What `check_env` asks of the files that a policy finds at the start of an episode."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..sandboxes import Sandbox
from ..sandboxes.harvest import harvest
from .leaks import Leak, find_leaks
from .threads import in_thread

MAX_BYTES = 1 << 26
"""Of all files together."""
MAX_ENTRIES = 100_000
_PLACES = ("/solution", "/oracle", "/tests", "/root/.cache/pip")
_LOOK = 'for place in "$HOME/.cache/pip" "$@"; do test -e "$place" && echo "$place"; done; true'


async def leaks_in(box: Sandbox, secrets: Sequence[str]) -> list[Leak]:
    """Of a sandbox's workspace, and of the places in its image where solutions are kept by habit."""
    found = await harvest(box, max_bytes=MAX_BYTES, max_entries=MAX_ENTRIES)
    for left in found.left_out:
        if "max_" in left.reason:
            raise ValueError(
                f"{left.path!r} was not looked into: {left.reason}; begin with a smaller workspace"
            )
    leaks = await in_thread(lambda: _leaks_of(found.files, secrets))
    elsewhere = (await box.run(["sh", "-c", _LOOK, "sh", *_PLACES])).stdout.decode(errors="replace").split()
    return [*leaks, *(Leak(place=place, why="a policy can read it") for place in dict.fromkeys(elsewhere))]


def _leaks_of(files: Sequence[tuple[str, bytes]], secrets: Sequence[str]) -> list[Leak]:
    with TemporaryDirectory(prefix="palaestra-") as name:
        folder = Path(name)
        for path, data in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        for head in folder.rglob("HEAD"):
            if (head.parent / "config").is_file():  # git needs two folders, which may be empty
                (head.parent / "objects").mkdir(exist_ok=True)
                (head.parent / "refs").mkdir(exist_ok=True)
        return find_leaks(folder, secrets=secrets)
