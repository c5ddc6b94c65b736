"""Where untrusted code runs. Standard library only; Docker is optional and lazy."""

from .errors import SandboxError, SandboxFileError, SandboxLost, SandboxUnavailable
from .opening import open_sandbox
from .sandbox import ExecResult, ExecStatus, Sandbox, SandboxSpec

__all__ = [
    "ExecResult",
    "ExecStatus",
    "Sandbox",
    "SandboxError",
    "SandboxFileError",
    "SandboxLost",
    "SandboxSpec",
    "SandboxUnavailable",
    "open_sandbox",
]
