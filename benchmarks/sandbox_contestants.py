"""Ways to run one Python program for somebody else, ours and others', behind one face.

Each execution prints a number of its own, so that an output that went to another caller is wrong, not lucky.
A contestant that this machine cannot field raises `Missing` from `setup`; the message is the cure.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from sandbox_cpu import engine_cpu_s, tree_cpu_s

from palaestra.sandboxes import Sandbox, SandboxSpec, SandboxUnavailable, open_sandbox

IMAGE = "palaestra-base:bookworm"
MAX_IN_FLIGHT = 128
BASE_PYTHON: str = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
"""The interpreter of this machine, without a virtual environment around it."""


class Missing(Exception):
    """Why a contestant cannot take part here, and the cure."""


def code(number: int) -> str:
    return f"print(7 * {number})"


def answer(number: int) -> bytes:
    return b"%d\n" % (7 * number)


class Contestant(ABC):
    """One row of the table."""

    name: str
    max_in_flight = MAX_IN_FLIGHT

    async def setup(self) -> None:
        """What its user pays once. Raises `Missing`."""
        return

    @abstractmethod
    async def once(self, number: int) -> bytes:
        """Run `code(number)`: its standard output. Whatever this raises counts as a lost output."""

    async def teardown(self) -> None:
        """Leave nothing behind."""
        return

    def cpu_s(self) -> float:
        """Processor seconds so far of all that works for it; NaN where that cannot be seen."""
        return tree_cpu_s()


class Subprocess(Contestant):
    """`asyncio.create_subprocess_exec`, no walls at all."""

    def __init__(self, name: str, *python: str) -> None:
        self.name = name
        self._python = python

    async def once(self, number: int) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *self._python, "-c", code(number), stdout=subprocess.PIPE
        )
        return (await process.communicate())[0]


class Embedded(Contestant):
    """`open_sandbox`, one run, close: a fresh sandbox for each program."""

    def __init__(self, tier: str) -> None:
        self.name = tier
        self._spec = SandboxSpec(backend=tier)

    async def setup(self) -> None:
        try:
            await self.once(0)
        except SandboxUnavailable as error:
            raise Missing(str(error)) from error

    async def once(self, number: int) -> bytes:
        async with open_sandbox(self._spec) as box:
            return (await box.run(["python3", "-c", code(number)], timeout_s=60)).stdout


class DockerAgent(Contestant):
    """One warm `DockerSandbox` for everybody, as the container of `docker exec` is."""

    name = "docker agent"

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._box: Sandbox | None = None

    async def setup(self) -> None:
        # As many processors and processes as `docker exec` has: its container is not limited.
        spec = SandboxSpec(backend="docker", cpus=len(os.sched_getaffinity(0)), pids=4 * MAX_IN_FLIGHT)
        try:
            self._box = await self._stack.enter_async_context(open_sandbox(spec))
        except SandboxUnavailable as error:
            raise Missing(str(error)) from error

    async def once(self, number: int) -> bytes:
        assert self._box is not None
        return (await self._box.run(["python3", "-c", code(number)], timeout_s=60)).stdout

    async def teardown(self) -> None:
        await self._stack.aclose()

    def cpu_s(self) -> float:
        return tree_cpu_s() + engine_cpu_s(getattr(self._box, "container", ""))


class DockerSdk(Contestant):
    """The SDK blocks: a thread for each call in flight, and a client for each thread."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._clients: list[Any] = []
        self._threads = ThreadPoolExecutor(MAX_IN_FLIGHT)

    def client(self) -> Any:
        if not hasattr(self._mine, "client"):
            self._mine.client = import_module("docker").from_env()
            self._clients.append(self._mine.client)
        return self._mine.client

    async def setup(self) -> None:
        try:
            docker: Any = import_module("docker")
        except ImportError as error:
            raise Missing("pip install docker") from error
        try:
            await self._blocking(lambda: self.client().images.get(IMAGE))
        except docker.errors.DockerException as error:
            raise Missing(f"no Docker engine with the image {IMAGE}: .ci/docker-up ({error})") from error

    async def _blocking(self, call: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def teardown(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for client in self._clients:
            client.close()


class DockerExec(DockerSdk):
    """`container.exec_run` in one warm container."""

    name = "docker exec"

    def __init__(self) -> None:
        super().__init__()
        self._container = ""

    async def setup(self) -> None:
        await super().setup()
        # An hour at most: nothing else ends the container of a benchmark that is killed.
        options = {"detach": True, "auto_remove": True, "network_mode": "none"}
        started = await self._blocking(
            lambda: self.client().containers.run(IMAGE, ["sleep", "3600"], **options)
        )
        self._container = started.id

    async def once(self, number: int) -> bytes:
        def call() -> bytes:
            # Of the API, without the look at the container that the object model would add to each call.
            api = self.client().api
            exec_id = api.exec_create(self._container, ["python3", "-c", code(number)])["Id"]
            output: bytes = api.exec_start(exec_id)
            api.exec_inspect(exec_id)  # the exit code
            return output

        output: bytes = await self._blocking(call)
        return output

    async def teardown(self) -> None:
        if self._container:
            await self._blocking(lambda: self.client().api.remove_container(self._container, force=True))
        await super().teardown()

    def cpu_s(self) -> float:
        return tree_cpu_s() + engine_cpu_s(self._container)


class DockerRun(DockerSdk):
    """`containers.run(..., remove=True)`: a fresh container for each program."""

    name = "docker run"
    max_in_flight = 8  # more only wait for each other in the engine, and bring the machine to its knees

    async def once(self, number: int) -> bytes:
        command = ["python3", "-c", code(number)]
        output: bytes = await self._blocking(
            lambda: self.client().containers.run(IMAGE, command, remove=True, network_mode="none")
        )
        return output

    def cpu_s(self) -> float:
        """A lower bound: each container's shim is nobody's child when it ends."""
        return tree_cpu_s() + engine_cpu_s("")


async def set_up(
    stack: contextlib.AsyncExitStack, wanted: Sequence[Contestant]
) -> tuple[list[Contestant], dict[str, str]]:
    """(who can take part, what the others lack)."""
    ready: list[Contestant] = []
    missing: dict[str, str] = {}
    for who in wanted:
        stack.push_async_callback(who.teardown)
        try:
            await who.setup()
            ready.append(who)
        except Missing as reason:
            missing[who.name] = str(reason)
    return ready, missing


def clean_python(folder: Path) -> str:
    """This interpreter as it is where it was just installed: in an environment without any package.

    The .pth files among a machine's packages run at each start, and one can cost more than the start itself.
    """
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python3")
