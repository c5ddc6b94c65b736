"""What the tests of the Docker backend share."""

import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from support import run_async

from palaestra.sandboxes import Sandbox, SandboxSpec
from palaestra.sandboxes._docker.owner import owner_label
from palaestra.sandboxes.docker import DockerSandbox, create_docker_sandbox

GONE_S = 10.0
"""Five times the 2 s within which everything has to be gone."""


def play(part: Callable[[DockerSandbox], Awaitable[None]], **spec: Any) -> None:
    """Run the part in a fresh sandbox."""

    async def main() -> None:
        box = await create_docker_sandbox(SandboxSpec(backend="docker", **spec))
        try:
            await part(box)
        finally:
            await box.close()

    run_async(main())


@contextmanager
def engine() -> Generator[Any, None, None]:
    """A client of the SDK, for looking at the engine past the sandboxes."""
    docker: Any = import_module("docker")
    client = docker.APIClient()
    try:
        yield client
    finally:
        client.close()


async def no_process_is_left(box: Sandbox) -> None:
    listed = (await box.run(["sh", "-c", "ls -d /proc/[0-9]*"])).stdout.split()
    assert listed[0] == b"/proc/1" and len(listed) == 2, listed  # the guest and ls


async def python(box: Sandbox, code: str) -> str:
    """What a program printed; it must have ended well."""
    result = await box.run(["python3", "-c", code])
    assert result.ok, result.stderr.decode()
    return result.stdout.decode().strip()


def owned_by(pid: int) -> dict[str, str]:
    """State by name of the containers of a driver that still runs."""
    return with_owner(owner_label(pid))


def with_owner(owner: str | None) -> dict[str, str]:
    assert owner is not None
    with engine() as api:
        found = api.containers(all=True, filters={"label": f"palaestra.owner={owner}"})
    # One that is being removed may have lost its name already.
    return {"".join(each["Names"] or [each["Id"]]): each["State"] for each in found}


def wait_until_gone(owner: str | None) -> None:
    deadline = time.monotonic() + GONE_S
    while left := with_owner(owner):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.02)
