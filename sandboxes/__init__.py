"""Where untrusted code runs. Standard library only; Docker is optional and lazy."""

from .archive import ArchiveLimits, pack, unpack
from .errors import ArchiveRefused, SandboxError, SandboxFileError, SandboxLost, SandboxUnavailable
from .job import Chunk, Job
from .opening import open_sandbox
from .sandbox import Capabilities, ExecResult, ExecStatus, Sandbox, SandboxSpec, Snapshot
from .session import Session, SessionResult

__all__ = [
    "ArchiveLimits",
    "ArchiveRefused",
    "Capabilities",
    "Chunk",
    "ExecResult",
    "ExecStatus",
    "Job",
    "Sandbox",
    "SandboxError",
    "SandboxFileError",
    "SandboxLost",
    "SandboxSpec",
    "SandboxUnavailable",
    "Session",
    "SessionResult",
    "Snapshot",
    "open_sandbox",
    "pack",
    "unpack",
]
