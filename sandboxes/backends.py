"""Which backend a spec gets: the one it names, or the strongest embedded tier that proves its walls."""

from pathlib import Path

from .errors import SandboxUnavailable
from .local import open_local
from .sandbox import Sandbox, SandboxSpec
from .selftest import SelfTest, self_test

EMBEDDED_TIERS = ("namespaces", "landlock")
"""From the strongest down."""

_SWITCHES = (
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
)


async def create_sandbox(spec: SandboxSpec) -> Sandbox:
    """A fresh sandbox for `spec`. An explicit backend is that one or `SandboxUnavailable`, never another."""
    if spec.backend == "docker" or spec.image is not None:
        from .docker import create_docker_sandbox

        return await create_docker_sandbox(spec)
    if spec.backend not in ("auto", *EMBEDDED_TIERS):
        known = ", ".join(("auto", *EMBEDDED_TIERS, "docker"))
        raise ValueError(f"SandboxSpec.backend must be one of {known}; got {spec.backend!r}")
    return await open_local(await _proven_tier(spec.backend), spec)


async def _proven_tier(backend: str) -> str:
    failed: list[SelfTest] = []
    for tier in EMBEDDED_TIERS if backend == "auto" else (backend,):
        test = await self_test(tier)
        if test.ok:
            return tier
        failed.append(test)
    raise SandboxUnavailable(_explain(failed))


def _explain(failed: list[SelfTest]) -> str:
    parts = [
        f"The {test.tier} tier does not hold here: "
        + "; ".join(f"{wall}: {reason}" for wall, reason in test.walls.items() if reason is not None)
        + "."
        for test in failed
    ]
    if any(test.tier == "namespaces" for test in failed):
        parts.append(_cure())
    parts.append('Or run Docker and set SandboxSpec(backend="docker").')
    return " ".join(parts)


def _cure() -> str:
    """What forbids user namespaces here, and how to allow them."""
    for name, forbidding, setting in _SWITCHES:
        path = Path("/proc/sys", name)
        if path.is_file() and path.read_text().strip() == forbidding:
            return f"{path} is {forbidding}, which forbids user namespaces: as root, sysctl -w {setting}."
    return (
        "If this is a container, its runtime may forbid user namespaces or mask /proc: start it with "
        "--security-opt seccomp=unconfined --security-opt systempaths=unconfined."
    )
