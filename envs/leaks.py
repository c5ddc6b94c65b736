"""What the files of a task give away: looked for when a task is built, before a policy sees them.

>>> find_leaks(Path("tasks/fix-parser/repo"), secrets=[gold_patch])
[Leak(place='.git', why='3 commits are no ancestors of HEAD, such as 5f1c0a9b; ...')]
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ._git_leaks import git_leaks, grep_objects
from .message import utf8

MAX_FILE_BYTES = 1 << 28
"""A file over this is no workspace's, and a leak to be explained."""
SHORTEST_SECRET = 12
"""Characters; a shorter text may stand anywhere by chance."""

_ANSWERS = re.compile(
    r"(?i)(solution|oracle|gold|reference[_-]solution|answer[_-]key)/"
    r"|solve\.sh|(solution|gold|test|fix)[_-]?(patch)?\.(patch|diff)|solution\.sh"
)
_CACHES = re.compile(
    r"\.cache/|pip-cache/|\.pytest_cache/|\.mypy_cache/|\.ruff_cache/|\.ipynb_checkpoints/"
    r"|\.(bash|python|zsh)_history|.*\.(orig|rej|swp)|.*~|.*\.(whl|egg)"
)
_COMPILED = re.compile(r"(.+?)\.(?:cpython-\d+(?:\.opt-\d)?\.)?pyc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """One thing that a policy could read and should not."""

    place: str
    """Relative to the folder; a directory ends with "/"."""
    why: str


def find_leaks(
    folder: Path, *, secrets: Sequence[str] = (), base: str = "HEAD", allow: Sequence[str] = ()
) -> list[Leak]:
    """What is wrong with a folder of task files; [] when nothing is found.

    Repositories: commits, tags, stashes, reflog entries and lost objects that `base` does not reach. Names:
    solutions, caches of pip and of test runs, compiled files without their source, histories and rejects of
    editors. Contents, those of git's objects included: any of `secrets`, such as a canary or the reference.

    Texts under 12 characters are not looked for, nor what is compressed or encoded. Places that match a
    pattern in `allow`, such as "vendor/*.whl", are right. Needs `git` where there is a repository.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name the one whose files the policy gets")
    wanted = [utf8(text).encode() for text in secrets if len(text) >= SHORTEST_SECRET]
    return [
        leak
        for leak in _leaks(folder, folder, wanted, base)
        if not any(fnmatch(leak.place.rstrip("/"), pattern) for pattern in allow)
    ]


def _leaks(folder: Path, root: Path, wanted: Sequence[bytes], base: str) -> Iterator[Leak]:
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        place = path.relative_to(root).as_posix() + ("/" if is_folder else "")
        if is_folder and _is_git(path):
            yield from (Leak(place=place, why=why) for why in _in_git(path, wanted, base))
            continue
        if why := _ill_named(path, f"{path.name}/" if is_folder else path.name):
            yield Leak(place=place, why=why)
        if is_folder:
            yield from _leaks(path, root, wanted, base)
        elif path.is_file() and not path.is_symlink():
            yield from (Leak(place=place, why=_holds(text)) for text in _grep(path, wanted))


def _is_git(path: Path) -> bool:
    """A repository's own folder, of a bare one too."""
    return (path / "HEAD").is_file() and (path / "objects").is_dir()


def _in_git(path: Path, wanted: Sequence[bytes], base: str) -> Iterator[str]:
    """Of a repository and those of its submodules."""
    for repo in (path, *(head.parent for head in path.rglob("modules/**/HEAD") if _is_git(head.parent))):
        yield from git_leaks(repo, base)
        yield from (f"an object: {_holds(text)}" for text in grep_objects(repo, wanted))
    for file in sorted(path.rglob("*")):
        if file.is_file() and "objects" not in file.relative_to(path).parts:
            yield from (f"{file.relative_to(path)}: {_holds(text)}" for text in _grep(file, wanted))


def _ill_named(path: Path, name: str) -> str:
    if _ANSWERS.fullmatch(name):
        return "it has the name of a solution"
    if _CACHES.fullmatch(name):
        return "a cache or a leftover; remove it"
    if not name.endswith("/") and _has_no_source(path):
        return "compiled from a source that is not there; remove it"
    return ""


def _has_no_source(path: Path) -> bool:
    found = _COMPILED.fullmatch(path.name)
    if found is None:
        return False
    home = path.parent.parent if path.parent.name == "__pycache__" else path.parent
    return not (home / f"{found[1]}.py").exists()


def _grep(path: Path, wanted: Sequence[bytes]) -> list[bytes]:
    if not wanted:
        return []
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {size} bytes, over {MAX_FILE_BYTES}; no policy needs that much")
    data = path.read_bytes()
    return [text for text in wanted if text in data]


def _holds(secret: bytes) -> str:
    return f"it holds the secret {secret.decode()[:60]!r}"
