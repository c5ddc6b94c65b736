"""Whether a tier's walls hold on this machine: programs that try to break each one, for real."""

import asyncio
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from .errors import SandboxUnavailable
from .local import open_local
from .sandbox import ExecResult, ExecStatus, Sandbox, SandboxSpec

_CANARY = "a file of the host"
_SPEC = SandboxSpec(memory_mb=64, pids=12, disk_mb=16)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfTest:
    """What was tried on one tier.

    >>> test = await self_test("namespaces")
    >>> test.walls["network"], test.proofs["network"]
    (None, 'no TCP or Unix connection to the driver')
    """

    tier: str
    walls: Mapping[str, str | None]
    """Why a wall does not hold; None: it holds. A tier that cannot start has the one wall "start"."""
    proofs: Mapping[str, str]
    """What a program tried in vain, by wall that holds."""
    seconds: float
    """Wall time that the test took."""

    @property
    def ok(self) -> bool:
        return all(reason is None for reason in self.walls.values())


class _Broken(Exception):
    """A wall did not hold; the message says how."""


_results: dict[str, SelfTest] = {}
_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def self_test(tier: str) -> SelfTest:
    """Try every wall of a tier; the result is kept for the life of the process."""
    async with _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        if tier not in _results:
            _results[tier] = await _try_all(tier)
        return _results[tier]


async def _try_all(tier: str) -> SelfTest:
    started = time.monotonic()
    outcomes = await asyncio.gather(*(_try(tier, probe) for probe in _PROBES.values()))
    walls: dict[str, str | None] = {}
    proofs: dict[str, str] = {}
    for wall, (held, words) in zip(_PROBES, outcomes, strict=True):
        walls[wall] = None if held else words
        if held:
            proofs[wall] = words
    if not proofs and len(set(walls.values())) == 1:
        # Nothing could even start, for one reason.
        walls = {"start": next(iter(walls.values()))}
    return SelfTest(tier=tier, walls=walls, proofs=proofs, seconds=time.monotonic() - started)


async def _try(tier: str, probe: "_Probe") -> tuple[bool, str]:
    """(whether the wall holds, how we know)."""

    async def run(code: str, *args: str, timeout_s: float = 10.0) -> ExecResult:
        box = await open_tier(tier, _SPEC)
        try:
            return await box.run(["python3", "-c", code, *args], timeout_s=timeout_s)
        finally:
            await box.close()

    try:
        return True, await probe(run)
    except (_Broken, SandboxUnavailable) as error:
        return False, str(error)


async def open_tier(tier: str, spec: SandboxSpec) -> Sandbox:
    """A sandbox of exactly this tier, whether it proved its walls or not."""
    if tier in ("namespaces", "landlock"):
        return await open_local(tier, spec)
    from .backends import create_sandbox  # which asks for a self-test of the two above

    return await create_sandbox(replace(spec, backend=tier))


_Run = Callable[..., Awaitable[ExecResult]]
_Probe = Callable[[_Run], Awaitable[str]]


def _expect(holds: bool, result: ExecResult) -> None:
    if not holds:
        said = (result.stdout + result.stderr).decode(errors="replace")[-300:]
        raise _Broken(f"a program that should have been stopped ended with {result.status.value!r}: {said}")


async def _memory(run: _Run) -> str:
    result = await run(
        "kept = []\nfor _ in range(64): kept.append(b'x' * (4 << 20))\nimport time; time.sleep(5)"
    )
    _expect(result.status is ExecStatus.OOM, result)
    return f"256 MiB touched under a limit of {_SPEC.memory_mb}: ended as {result.status.value!r}"


async def _pids(run: _Run) -> str:
    result = await run(
        "import os, time\n"
        "for _ in range(64):\n"
        "    if os.fork() == 0: time.sleep(30); os._exit(0)\n"
        "time.sleep(5)\n"
    )
    _expect(result.status is ExecStatus.PIDS, result)
    return f"64 forks under a limit of {_SPEC.pids}: ended as {result.status.value!r}"


async def _disk(run: _Run) -> str:
    result = await run(
        "for name in range(16):\n"
        "    with open(str(name), 'wb') as file: file.write(b'x' * (4 << 20)); file.flush()\n"
        "import time; time.sleep(5)\n"
    )
    full = result.status is ExecStatus.NONZERO and b"No space left" in result.stderr
    _expect(full or result.status is ExecStatus.KILLED, result)
    return f"64 MiB written under a limit of {_SPEC.disk_mb}: ended as {result.status.value!r}"


async def _network(run: _Run) -> str:
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        # Numbers of processes are not enough: containers may share a network.
        name = f"\0palaestra-selftest-{secrets.token_hex(8)}"
        local.bind(name)
        local.listen()
        result = await run(
            "import socket, sys\n"
            "for family, to in ((2, ('127.0.0.1', int(sys.argv[1]))), (1, '\\0' + sys.argv[2])):\n"
            "    try: socket.socket(family).connect(to); print('connected to', to)\n"
            "    except OSError: pass\n",
            str(tcp.getsockname()[1]),
            name[1:],
        )
    _expect(result.ok and not result.stdout, result)
    return "no TCP or Unix connection to the driver"


async def _filesystem(run: _Run) -> str:
    with tempfile.TemporaryDirectory(prefix="selftest-") as directory:
        canary = _make_canary(directory)
        result = await run(
            "import os, sys\n"
            "try: print('read:', open(sys.argv[1]).read())\n"
            "except OSError: pass\n"
            "for path in (*sys.argv[1:], '/usr/palaestra', '/palaestra', '/dev/palaestra'):\n"
            "    try: open(path, 'w').write('x'); os.remove(path); print('written:', path)\n"
            "    except OSError: pass\n",
            canary,
            f"{directory}/new",
        )
        _expect(result.ok and not result.stdout and _is_untouched(canary), result)
    return "a world-readable file of the host was not readable, and nothing outside was writable"


def _make_canary(directory: str) -> str:
    """A file that everybody may read and write, in a directory that everybody may write to."""
    os.chmod(directory, 0o777)
    canary = Path(directory, "canary")
    canary.write_text(_CANARY)
    canary.chmod(0o666)
    return str(canary)


def _is_untouched(canary: str) -> bool:
    path = Path(canary)
    return path.read_text() == _CANARY and os.listdir(path.parent) == [path.name]


async def _processes(run: _Run) -> str:
    result = await run(
        "import os, signal, sys\n"
        "try: is_ours = os.readlink('/proc/self/ns/pid') != sys.argv[1]\n"
        "except OSError: is_ours = False\n"
        "for pid in [] if is_ours else map(int, sys.argv[2:]):\n"
        "    try: os.kill(pid, 0); print('may signal', pid)\n"
        "    except OSError: pass\n"
        "    try: open(f'/proc/{pid}/environ').read(); print('may read', pid)\n"
        "    except OSError: pass\n",
        # In a pid namespace of its own, the driver's numbers mean other processes.
        os.readlink("/proc/self/ns/pid"),
        str(os.getpid()),
        # A driver that is process 1 has the parent 0, which for kill means something else.
        str(os.getppid() or os.getpid()),
    )
    _expect(result.ok and not result.stdout, result)
    return "the driver's process could not be signalled or read"


async def _time(run: _Run) -> str:
    result = await run(
        "import os, signal\n"
        "for number in range(1, 32):\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except OSError: pass\n"
        "if os.fork() == 0: os.setsid(); os.fork()\n"
        "while True: pass\n",
        timeout_s=0.2,
    )
    _expect(result.status is ExecStatus.TIMEOUT, result)
    return "processes that ignore every signal, in sessions of their own, were ended on time"


_PROBES: dict[str, _Probe] = {
    "memory": _memory,
    "pids": _pids,
    "disk": _disk,
    "network": _network,
    "filesystem": _filesystem,
    "processes": _processes,
    "time": _time,
}
