"""SWE-ReX (`pip install swe-rex`) among the contestants, used as its documentation shows.

Its runtime blocks the event loop that it runs on, which in a container is its server's: one execution is
in flight whatever is asked.
"""

import asyncio
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from sandbox_contestants import IMAGE, Contestant, Missing, code
from sandbox_cpu import engine_cpu_s, tree_cpu_s

_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_SERVER = """\
#!/usr/bin/python3
import signal, sys
signal.alarm(3600)  # nothing else ends the container of a benchmark that is killed
sys.path.append("/swe-rex")
sys.argv += ["--host", "127.0.0.1", "--port", "{port}"]
from swerex.server import main
main()
"""


class SweRex(Contestant):
    """A deployment: `execute`, which is a plain subprocess, or its bash session, which its agents use."""

    max_in_flight = 32  # more only wait for each other

    def __init__(self, name: str, python: str, *, in_session: bool) -> None:
        self.name = name
        self._python = python
        self._in_session = in_session
        self._deployment: Any = None
        self._requests: Any = None

    async def setup(self) -> None:
        os.environ.setdefault("SWE_REX_LOG_STREAM_LEVEL", "ERROR")
        try:
            self._requests = import_module("swerex.runtime.abstract")
        except ImportError as error:
            raise Missing("pip install swe-rex") from error
        self._deployment = await self.deploy()
        if self._in_session:
            request = self._requests.CreateBashSessionRequest(startup_timeout=30)
            await self._deployment.runtime.create_session(request)

    async def deploy(self) -> Any:
        """Start one. This is its smallest: the runtime in this process, without an HTTP server."""
        deployment: Any = import_module("swerex.deployment.local").LocalDeployment()
        await deployment.start()
        return deployment

    async def once(self, number: int) -> bytes:
        if self._in_session:
            return await self._run_in_session(f"{self._python} -c '{code(number)}'")
        command = self._requests.Command(command=[self._python, "-c", code(number)])
        output: str = (await self._deployment.runtime.execute(command)).stdout
        return output.encode()

    async def _run_in_session(self, command: str) -> bytes:
        action = self._requests.BashAction(command=command, timeout=60)
        output: str = (await self._deployment.runtime.run_in_session(action)).output
        return output.strip().encode() + b"\n"  # its terminal adds blank lines around every output

    async def teardown(self) -> None:
        if self._deployment is not None:
            await self._deployment.stop()


class SweRexDocker(SweRex):
    """Its Docker deployment in one warm container of the base image.

    In an image without it, it installs itself from PyPI. Here it finds this environment's packages, mounted
    read-only, and its server listens on the host's loopback: `.ci/docker-up` gives the engine no bridge.
    """

    def __init__(self, name: str, folder: Path, *, in_session: bool) -> None:
        super().__init__(name, "python3", in_session=in_session)
        self._folder = folder
        """Empty; for this contestant alone."""

    async def deploy(self) -> Any:
        theirs = await asyncio.to_thread(image_python)
        if theirs != _HERE:
            raise Missing(
                f"{IMAGE} has Python {theirs} and cannot load packages for {_HERE}: use Python {theirs}"
            )
        port: int = import_module("swerex.utils.free_port").find_free_port()
        deployment: Any = import_module("swerex.deployment.docker").DockerDeployment(
            image=IMAGE, pull="never", port=port, startup_timeout=60, docker_args=self._docker_args(port)
        )
        try:
            await deployment.start()
        except (RuntimeError, TimeoutError) as error:
            await deployment.stop()
            raise Missing(f"its server did not start in {IMAGE}: {error}") from error
        return deployment

    def _docker_args(self, port: int) -> list[str]:
        server = self._folder / "swerex-remote"
        server.write_text(_SERVER.format(port=port))
        server.chmod(0o755)
        packages = Path(str(import_module("swerex").__file__)).parents[1]
        volumes = [f"{packages}:/swe-rex:ro", f"{server}:/usr/local/bin/{server.name}:ro"]
        volume_args = [word for volume in volumes for word in ("--volume", volume)]
        return ["--network", "host", "--cidfile", str(self._folder / "container"), *volume_args]

    def cpu_s(self) -> float:
        return tree_cpu_s() + engine_cpu_s((self._folder / "container").read_text())


def image_python() -> str:
    """Version of the base image's Python: "3.11". Raises `Missing`."""
    command = ["docker", "run", "--rm", "--pull", "never", "--network", "none", IMAGE]
    command += ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError as error:
        raise Missing("no `docker` command: .ci/docker-up") from error
    except subprocess.CalledProcessError as error:
        because = error.stderr.strip()
        raise Missing(f"no Docker engine with the image {IMAGE}: .ci/docker-up ({because})") from error
