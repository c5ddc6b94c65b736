"""What a repository holds beyond the commit that a task begins at."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LC_ALL": "C",
    "PATH": os.environ.get("PATH", os.defpath),
}
_SPECIAL = ("ORIG_HEAD", "FETCH_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "AUTO_MERGE")


def git_leaks(repo: Path, base: str) -> Iterator[str]:
    """Why each thing in a repository's own folder must go. Raises `ValueError` for a `base` that it lacks."""
    start = _git(repo, "rev-parse", "--quiet", "--verify", f"{base}^{{commit}}", may_fail=True).strip()
    if not start and base != "HEAD":
        raise ValueError(f"{repo} has no commit {base!r}")
    past = set(_git(repo, "rev-list", start).split()) if start else set[str]()
    cure = "clone with one branch, no tags and no reflog, or expire and prune"
    later = [name for name in _commits(repo) if name not in past]
    if later:
        yield f"{len(later)} commits are no ancestors of {base}, such as {later[0][:8]}; {cure}"
    for line in _git(repo, "for-each-ref", "--format=%(refname) %(objectname) %(*objectname)").splitlines():
        ref, *names = line.split()
        if names[-1] not in past:
            yield f"{ref} points beyond {base}; delete it"
    for path in sorted((repo / "logs").rglob("*")):
        if path.is_file() and (beyond := _beyond(path, past)):
            place = path.relative_to(repo).as_posix()
            yield f"{place} tells of {beyond} commits that are no ancestors of {base}; delete it"
    for name in _SPECIAL:
        if _first_word(repo / name) not in ("", *past):
            yield f"{name} names what is no ancestor of {base}; delete it"
    said = _git(repo, "log", "--format=%B%x00", start).split("\0") if start else []
    if (note := _text(repo / "COMMIT_EDITMSG").strip()) and note not in map(str.strip, said):
        yield f"COMMIT_EDITMSG tells of a commit that is no ancestor of {base}: {note[:60]!r}; delete it"
    if lost := _lost(repo, start):
        yield f"{len(lost)} objects are not part of {base} or the index, such as {lost[0][:8]}; {cure}"


def grep_objects(repo: Path, wanted: Sequence[bytes]) -> list[bytes]:
    """Those of `wanted` that any object holds, reachable or not."""
    if not wanted:
        return []
    overlap = max(map(len, wanted)) - 1
    found: set[bytes] = set()
    words = ("cat-file", "--batch-all-objects", "--batch", "--unordered")
    with subprocess.Popen(
        _command(repo, *words), env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as git:
        assert git.stdout is not None
        tail = b""
        while chunk := git.stdout.read(1 << 20):
            seen = tail + chunk
            found |= {text for text in wanted if text in seen}
            tail = seen[len(seen) - overlap :]
    if git.returncode:
        raise RuntimeError(f"{repo}: git cat-file ended with {git.returncode}")
    return [text for text in wanted if text in found]


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _first_word(path: Path) -> str:
    return next(iter(_text(path).split()), "")


def _commits(repo: Path) -> list[str]:
    """All of them, reachable or not."""
    return [name for name, kind in _objects(repo) if kind == "commit"]


def _objects(repo: Path) -> Iterator[tuple[str, str]]:
    listed = _git(repo, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)")
    for line in listed.splitlines():
        name, kind = line.split()
        yield name, kind


def _beyond(log: Path, past: set[str]) -> int:
    """How many commits a reflog names that are not in the past."""
    lines = log.read_text(errors="replace").splitlines()
    named = {word for line in lines for word in line.split()[:2]} - {"0" * 40, "0" * 64}
    return len(named - past)


def _lost(repo: Path, start: str) -> list[str]:
    """Trees and files that neither the past nor the index has; commits and tags have their own lines."""
    kept = {line.split()[1] for line in _git(repo, "ls-files", "--stage").splitlines()}
    if start:
        kept |= {line.split()[0] for line in _git(repo, "rev-list", "--objects", start).splitlines()}
    return [name for name, kind in _objects(repo) if kind in ("blob", "tree") and name not in kept]


def _git(repo: Path, *words: str, may_fail: bool = False) -> str:
    done = _run(repo, *words, may_fail=may_fail)
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def _run(repo: Path, *words: str, may_fail: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Commands that look only, and run no hook. Raises `RuntimeError` where one fails."""
    command = _command(repo, *words)
    try:
        done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise RuntimeError(f"git is not installed, which looking into {repo} needs") from error
    if done.returncode and not may_fail:
        raise RuntimeError(f"{repo}: git {words[0]}: {done.stderr.decode(errors='replace').strip()[:500]}")
    return done


def _command(repo: Path, *words: str) -> list[str]:
    return ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", f"--git-dir={repo}", *words]
