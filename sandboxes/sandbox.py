"""The contract of every sandbox: a spec, six calls, and results that say how a program ended."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from .errors import SandboxUnavailable
from .job import Job
from .session import Session


class ExecStatus(StrEnum):
    """How a program ended. An infrastructure fault is an exception instead (`errors.py`)."""

    OK = "ok"
    NONZERO = "nonzero"
    TIMEOUT = "timeout"
    OOM = "oom"
    PIDS = "pids"
    KILLED = "killed"


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSpec:
    """What a sandbox must be. A wall that no backend can hold raises `SandboxUnavailable`.

    >>> SandboxSpec(memory_mb=128).network
    'none'
    """

    backend: str = "auto"
    """"auto" (strongest embedded tier that proves every wall), "namespaces", "landlock", "docker", the name
    of an installed backend, or "unsafe-local", which has no walls."""
    image: str | None = None
    """Container image; needs backend "docker". None: the host's system directories, read-only."""
    cpus: float = 1.0
    """Processor share, in cores."""
    memory_mb: int = 512
    """Memory of all processes together, MiB."""
    pids: int = 64
    """Processes and threads at one time."""
    disk_mb: int = 256
    """Writable space, MiB."""
    network: Literal["none", "open"] | tuple[str, ...] = "none"
    """Who may be reached, over HTTP and HTTPS through a proxy in the driver: nobody, every public host, or
    those of a list like `("pypi.org", "*.example.org:8443")`. Programs find it by HTTPS_PROXY."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """The environment variables inside; nothing of the host's environment enters."""
    preload: tuple[str, ...] = ()
    """Modules that are in memory when a Python program starts, so that importing them costs nothing. numpy
    and its like then have one thread."""
    venv: str | None = None
    """A virtual environment of the host, of the Python that runs this: shown read-only, its packages at hand.
    Embedded tiers only: an image has its own."""

    def __post_init__(self) -> None:
        for name in ("cpus", "memory_mb", "pids", "disk_mb"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"SandboxSpec.{name} must be over 0 and finite, got {getattr(self, name)}")
        require_env(self.env, "SandboxSpec.env")
        if not isinstance(self.network, str):
            from .allow import Allow  # most sandboxes have no network

            Allow.parse(self.network)
        elif self.network not in ("none", "open"):
            raise ValueError(
                f'SandboxSpec.network must be "none", "open" or a tuple of hosts, got {self.network!r}'
            )
        for name in self.preload:
            if not all(map(str.isidentifier, name.split("."))):
                raise ValueError(f"SandboxSpec.preload has {name!r}, which is not the name of a module")
        if self.venv is not None and (self.image is not None or self.backend == "docker"):
            raise ValueError(
                f"SandboxSpec.venv={self.venv!r} needs an embedded tier; put packages into the image"
            )
        if self.image is not None and self.backend not in ("auto", "docker"):
            raise ValueError(f'SandboxSpec.image needs backend="docker", got backend={self.backend!r}')


def is_word(value: object) -> bool:
    """Whether a command line or an environment can hold it.

    >>> is_word("naïve"), is_word("a\\0b"), is_word("\\ud800")
    (True, False, False)
    """
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def require_call(
    argv: Sequence[str],
    timeout_s: float,
    output_limit: int,
    env: Mapping[str, str] | None = None,
    cwd: str = ".",
) -> None:
    """Raises `ValueError` for arguments of `Sandbox.run` that no backend can honour."""
    if isinstance(argv, str) or not argv or not all(map(is_word, argv)):
        raise ValueError(
            f"argv must be a list of one or more words, each UTF-8 text without NUL; got {argv!r:.200}"
        )
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be over 0, got {timeout_s}")
    if output_limit < 0:
        raise ValueError(f"output_limit must be 0 or more bytes, got {output_limit}")
    require_env(env or {}, "env")
    if not cwd or not is_word(cwd):
        raise ValueError(f"cwd must be a path, UTF-8 text without NUL; got {cwd!r:.200}")


def require_env(env: Mapping[str, str], field: str) -> None:
    """Raises `ValueError` for variables that no program can have."""
    for name, value in env.items():
        if not name or "=" in name or not is_word(name) or not is_word(value):
            raise ValueError(
                f"{field} has {name!r}: {value!r}; both must be UTF-8 text without NUL, and "
                "a name not empty and without '='"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecResult:
    """One finished program."""

    status: ExecStatus
    exit_code: int | None
    """None when the program was ended by us or by a signal."""
    stdout: bytes
    """At most `output_limit` bytes: head and tail, with the middle left out when there was more."""
    stderr: bytes
    omitted_stdout: int = 0
    """Bytes of standard output that were drained and not kept."""
    omitted_stderr: int = 0
    wall_s: float = 0.0
    """Seconds from the program's start to its end; queueing is not in it."""
    cpu_s: float = 0.0
    """User + system seconds of the program and the children it waited for."""
    max_rss_mb: float = 0.0
    """Peak resident memory of its largest process, MiB."""
    queue_s: float = 0.0
    """Seconds of the call in which the program did not run: waiting for its start, and for its result."""

    @property
    def ok(self) -> bool:
        return self.status is ExecStatus.OK


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a backend can do, and what it refuses."""

    tier: str
    """Which walls hold."""
    jobs: bool = False
    """`start`, and with it `shell` and `python`."""
    fork: Literal["none", "copy", "overlay"] = "none"
    """How `fork` and `snapshot` get at the files: by copying each, or by sharing them unchanged."""
    networks: tuple[str, ...] = ("none",)
    """The kinds of `SandboxSpec.network` that it holds."""
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """What another tier has and this one does not, each with its reason."""


class Sandbox(ABC):
    """A private workspace in which untrusted programs run. Single use; close it, or use `open_sandbox`.

    Paths are relative to the workspace, which is also the working directory of every program. Calls may be
    made side by side: they share the limits.
    """

    tier: str
    """Which walls hold: "namespaces", "landlock" or "docker"; recorded with every episode."""

    def capabilities(self) -> Capabilities:
        """What this backend can do beyond the six calls."""
        return Capabilities(tier=self.tier)

    @abstractmethod
    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 10.0,
        output_limit: int = 1 << 20,
        env: Mapping[str, str] | None = None,
        cwd: str = ".",
        key: str | None = None,
    ) -> ExecResult:
        """Run one program to its end; every process that it left behind is dead when this returns.

        `env` is added to `SandboxSpec.env`; a `cwd` that cannot be entered is exit code 126. `timeout_s`
        counts from the program's start. A second call with the same `key` runs nothing: it gets the first
        one's result, also when that call was cancelled. Raises `SandboxLost` when the sandbox itself is gone;
        never for what the program does.
        """

    async def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = b"",
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> Job:
        """Start a program that runs beside other calls. With `stdin=None` its input comes by `Job.send`.

        Raises `SandboxUnavailable` where `capabilities().jobs` is False.
        """
        raise SandboxUnavailable(f"the {self.tier} backend has no long jobs; see Sandbox.capabilities()")

    def job(self, id: int) -> Job:
        """A job that was started here, by its id. Raises `ValueError`."""
        raise ValueError(f"the {self.tier} backend has no jobs, and none with id {id}")

    async def shell(self) -> Session:
        """A bash that keeps its directory, variables and functions from one command to the next."""
        raise SandboxUnavailable(f"the {self.tier} backend has no sessions; see Sandbox.capabilities()")

    async def python(self) -> Session:
        """A Python that keeps its variables and imports from one piece of code to the next."""
        raise SandboxUnavailable(f"the {self.tier} backend has no sessions; see Sandbox.capabilities()")

    @abstractmethod
    async def write(self, path: str, data: bytes) -> None:
        """Create or replace a regular file, with its parent directories. Raises `SandboxFileError`."""

    @abstractmethod
    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        """The content of a regular file; a link, a device or a larger file raises `SandboxFileError`."""

    @abstractmethod
    async def list(self, path: str = ".") -> list[str]:
        """Sorted names in a directory; directories end with "/"."""

    @abstractmethod
    async def remove(self, path: str) -> None:
        """Remove a file or a whole directory."""

    async def fork(self) -> Sandbox:
        """A new sandbox of the same spec whose workspace begins as this one's is now; close it too.

        Files, not processes: no program may be running. What is outside the workspace (/tmp) is not in it.
        Raises `SandboxFileError` while programs run, and for what cannot be forked. It outlives its parent.
        """
        raise SandboxUnavailable(f"the {self.tier} backend has no forks; see Sandbox.capabilities()")

    async def snapshot(self) -> Snapshot:
        """The workspace as it is now, to open sandboxes from as often as wanted. Raises as `fork` does."""
        return Snapshot(await self.fork())

    @abstractmethod
    async def close(self) -> None:
        """Kill everything inside and free the workspace. Safe to call twice."""


class Snapshot:
    """Files of a workspace, kept by a sandbox in which nothing runs."""

    def __init__(self, kept: Sandbox) -> None:
        self._kept = kept

    async def open(self) -> Sandbox:
        """A new sandbox whose workspace begins with these files; close it too."""
        return await self._kept.fork()

    async def close(self) -> None:
        """Free the files. Sandboxes that were opened from it go on. Safe to call twice."""
        await self._kept.close()
