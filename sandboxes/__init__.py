"""Where untrusted code runs. Standard library only; Docker is optional and lazy."""

from .errors import SandboxError, SandboxFileError, SandboxLost, SandboxUnavailable
from .sandbox import ExecResult, ExecStatus, Sandbox, SandboxSpec, open_sandbox

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
