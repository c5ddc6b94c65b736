"""What the Docker engine knows of our sandboxes: containers, by their labels."""

import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from .._docker import reaper
from .._docker.owner import LABEL, host_label, is_gone, our_label
from .._inside.cell import descendants
from ..docker import DockerSandbox
from ..sandbox import Sandbox
from .engine_proxy import EngineProxy, engine_proxy
from .proc import name_of
from .target import View


class DockerView(View):
    """The view of "docker"."""

    settles_s = 2.0

    def everything(self) -> frozenset[str]:
        ours = {f"container {container['Id'][:12]}" for container in _containers()}
        processes = {name_of(pid) for pid in descendants(os.getpid()) if not _is_reaper(pid)}
        return frozenset(ours | processes)

    def programs(self) -> Sequence[str]:
        return [process for container in _containers() for process in _programs(container["Id"])]

    def open_faults(self) -> Mapping[str, Callable[[], AbstractContextManager[object]]]:
        if not _is_local():
            return {}
        return {
            "the engine's disk is full": lambda: _failing(b"/containers/create"),
            "the engine fails to attach": lambda: _failing(b"/attach"),
            "the engine fails to start": lambda: _failing(b"/start"),
            "the engine hangs up": _hanging_up,
            "the engine's answer is lost": _losing_an_answer,
            "the engine is gone": _gone,
        }

    def call_faults(self) -> Mapping[str, Callable[[Sandbox], object]]:
        return {"the container is removed": _remove, "the container is killed": _kill}


def _client() -> Any:
    return import_module("docker").APIClient()


def _containers() -> list[Any]:
    """Those of this process, and those whose owner is dead."""
    with _closing(_client()) as api:
        labels = [f"{LABEL}=1", f"{LABEL}.host={host_label()}"]
        return [each for each in api.containers(all=True, filters={"label": labels}) if _concerns_us(each)]


def _concerns_us(container: Any) -> bool:
    owner: str = container["Labels"].get(f"{LABEL}.owner", "")
    return bool(owner) and (owner == our_label() or is_gone(owner))


def _is_reaper(pid: int) -> bool:
    """It belongs to this process, as the engine does to the machine, and lives as long."""
    try:
        return os.fsencode(reaper.__file__) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _programs(container: str) -> list[str]:
    docker: Any = import_module("docker")
    with _closing(_client()) as api, suppress(docker.errors.APIError):  # it has gone: nothing runs in it
        guest = str(api.inspect_container(container)["State"]["Pid"])
        table: Any = api.top(container)
        at, command = table["Titles"].index("PID"), table["Titles"].index("CMD")
        rows = [row for row in table["Processes"] or () if row[at] != guest]
        return [f"process {row[at]} ({row[command]:.40})" for row in rows]
    return []


@contextmanager
def _closing(client: Any) -> Generator[Any, None, None]:
    try:
        yield client
    finally:
        client.close()


def _is_local() -> bool:
    """Whether the engine is asked through a socket that a proxy can stand before."""
    return os.environ.get("DOCKER_HOST", "unix://").startswith("unix://")


@contextmanager
def _failing(*requests: bytes) -> Generator[None, None, None]:
    with engine_proxy() as proxy:
        proxy.failing = requests
        yield


@contextmanager
def _hanging_up() -> Generator[None, None, None]:
    """The create request is on its way when every connection breaks; the next one gets its answer."""
    with engine_proxy() as proxy:
        proxy.silent = (b"/containers/create",)

        def hang_up() -> None:
            proxy.silent = ()
            proxy.hang_up()

        timer = threading.Timer(0.3, hang_up)
        timer.start()
        try:
            yield
        finally:
            timer.join()


@contextmanager
def _losing_an_answer() -> Generator[None, None, None]:
    """The container exists, and nobody was told its name."""
    with engine_proxy() as proxy:
        proxy.lossy = (b"/containers/create",)
        yield


@contextmanager
def _gone() -> Generator[EngineProxy, None, None]:
    with engine_proxy() as proxy:
        proxy.close()
        yield proxy


def _remove(box: Sandbox) -> None:
    assert isinstance(box, DockerSandbox)
    with _closing(_client()) as api:
        api.remove_container(box.container, force=True)


def _kill(box: Sandbox) -> None:
    assert isinstance(box, DockerSandbox)
    with _closing(_client()) as api:
        api.kill(box.container)
