"""Which backend a spec gets: the one it names, or the strongest embedded tier that proves its walls."""

from collections.abc import Awaitable, Callable
from importlib.metadata import entry_points
from pathlib import Path

from .errors import SandboxUnavailable
from .local import open_local
from .sandbox import Sandbox, SandboxSpec
from .selftest import SelfTest, self_test

EMBEDDED_TIERS = ("namespaces", "landlock")
"""From the strongest down."""
NETWORKED_TIERS = ("namespaces",)
"""Those whose programs have a loopback of their own, on which they find the proxy."""
UNSAFE = "unsafe-local"
"""No walls. Only who names it gets it."""
ENTRY_POINTS = "palaestra.sandboxes"
"""The group in which a package offers a backend: a coroutine from a `SandboxSpec` to an open `Sandbox`."""

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
    if spec.backend in ("auto", *EMBEDDED_TIERS):
        return await open_local(await _proven_tier(spec), spec)
    if spec.backend == UNSAFE:
        return await _open_unsafe(spec)
    for found in entry_points(group=ENTRY_POINTS, name=spec.backend):
        opener: Callable[[SandboxSpec], Awaitable[Sandbox]] = found.load()
        return await opener(spec)
    raise ValueError(f"SandboxSpec.backend must be one of {', '.join(backends())}; got {spec.backend!r}")


def backends() -> list[str]:
    """The names that `SandboxSpec.backend` may have here, those of installed packages included."""
    others = entry_points(group=ENTRY_POINTS).names
    return ["auto", *EMBEDDED_TIERS, "docker", UNSAFE, *sorted(others)]


async def _open_unsafe(spec: SandboxSpec) -> Sandbox:
    """Programs reach what this user reaches: all that is left is limits, and the end of every process."""
    if spec.network != "open":
        raise SandboxUnavailable(
            f"backend={UNSAFE!r} cannot hold network={spec.network!r}: programs use the host's network. "
            'If that is meant, say network="open"; for untrusted code use backend="auto"'
        )
    return await open_local(UNSAFE, spec)


async def _proven_tier(spec: SandboxSpec) -> str:
    failed: list[SelfTest] = []
    for tier in EMBEDDED_TIERS if spec.backend == "auto" else (spec.backend,):
        if spec.network != "none" and tier not in NETWORKED_TIERS:
            walls = {"network": f"it can hold network='none' only, not {spec.network!r}"}
            failed.append(SelfTest(tier=tier, walls=walls, proofs={}, seconds=0.0))
            continue
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
