"""The `palaestra` command as a user starts it, in a process of its own."""

import multiprocessing
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support import ROOT

from palaestra.sandboxes._embedded import namespaces, seccomp
from palaestra.sandboxes._inside import linux

MAIN = "from palaestra.cli.main import main; main()"
LIMIT_S = 100.0

SHAPE = {
    "layers": 1,
    "hidden": 32,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 16,
    "intermediate": 64,
    "vocab": 160,
}
"""Of the smallest model that the tests train."""

TINY: dict[str, Any] = {
    "name": "tiny",
    "env": {"id": "cli_envs:Odd", "held_out": 4},
    "model": {
        "tool_format": "none",
        "tiny": {**SHAPE, "max_context": 64},
    },
    "engine": {"slots": 16},
    "sampling": {"max_tokens": 8},
    "warm_start": {"demonstrations": 4, "steps": 1, "batch_size": 2},
    "grpo": {"steps": 2, "tasks_per_step": 4, "group_size": 4},
    "checkpoint": {"every": 1},
    "threads": 1,
}
"""A recipe that trains one layer for two steps, in a second. Its run is runs/tiny."""

_FORKS = multiprocessing.get_context("forkserver")
# The same list as in trainings.py: the server that loads them is one for all tests.
_FORKS.set_forkserver_preload(["palaestra.cli.main", "palaestra.trainer.run", "reasoning_gym"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What a command came to."""

    code: int
    stdout: str
    stderr: str
    """"" where a terminal got it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyRun:
    """What `palaestra train tiny.yaml --json` left, in a folder where it is runs/tiny."""

    cwd: Path
    recipe: Path
    done: Done
    screen: str
    """Every byte that the terminal got."""

    @property
    def folder(self) -> Path:
        return self.cwd / "runs" / "tiny"


def write_recipe(folder: Path, **changes: Any) -> Path:
    """TINY with some sections replaced, as a file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def palaestra(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    python: tuple[str, ...] = ("-P",),
    code: str = MAIN,
) -> Done:
    """Run the command to its end. `code` may make the machine poorer before it calls `main`."""
    done = subprocess.run(
        [sys.executable, *python, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return Done(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def forked(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    terminal: str | None = None,
    first: Callable[[], None] | None = None,
) -> Done:
    """The same in a fork of a process that has loaded torch, which takes a command seconds otherwise.

    `terminal`: the device that standard error goes to. `first` is called before the command.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "out"), Path(scratch, "err")
        streams = (str(out), terminal or str(err))
        process = _FORKS.Process(
            target=_main, args=([str(each) for each in arguments], str(cwd), dict(env or {}), streams, first)
        )
        process.start()
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
        stderr = err.read_text() if err.exists() else ""
        code = process.exitcode
        process.close()
        assert code is not None and code >= 0, f"ended by signal {code}: {stderr}"
        return Done(code=code, stdout=out.read_text(), stderr=stderr)


def forbid_sandboxes() -> None:
    """Make this process's machine one that allows neither user namespaces nor Landlock."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        linux.unshare(linux.NEWUSER)
        namespaces.map_ids(uid, gid, uid, gid)
    except PermissionError:
        pass  # it allows no namespaces as it is
    else:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    # 444 is landlock_create_ruleset: ENOSYS, as on a kernel without it.
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7FFF0000)]
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.Filter(b"".join(struct.pack("HBBI", *op) for op in code)).install()


def leave_as_reader() -> None:
    """Make this process's standard output a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.close(writer)


def _main(
    arguments: list[str],
    cwd: str,
    env: dict[str, str],
    streams: tuple[str, str],
    first: Callable[[], None] | None,
) -> None:
    """The forked process."""
    from palaestra.cli.main import main

    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o600), number)
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv = ["palaestra", *arguments]
    if first is not None:
        first()
    main()
