"""`palaestra sandbox image`: what Docker sandboxes are made of."""

import asyncio
from typing import Annotated

import typer

from ..sandboxes import SandboxSpec, SandboxUnavailable, open_sandbox
from ..sandboxes._docker.containers import BASE_IMAGE
from ..sandboxes._docker.image import SUITE
from .console import only_json, open_console, print_json, printable
from .options import Json

sandbox = typer.Typer(help="What sandboxes are made of.", no_args_is_help=True, rich_markup_mode=None)


@sandbox.callback()
def group() -> None:
    """What sandboxes are made of."""


@sandbox.command("image")
def make_image(
    pull: Annotated[str | None, typer.Option(help="Pull this image instead of building one.")] = None,
    suite: Annotated[str, typer.Option(help="Debian release to build from.")] = SUITE,
    mirror: Annotated[
        str | None, typer.Option(help="Debian mirror; by default the one that apt uses.")
    ] = None,
    tag: Annotated[
        str, typer.Option(help="What to call it; the default is what sandboxes look for.")
    ] = BASE_IMAGE,
    as_json: Json = False,
) -> None:
    """Make the base image of Docker sandboxes, and run a program in one."""
    from ..sandboxes._docker import image  # the Docker backend is optional

    name, _, version = tag.rpartition(":")
    if not name or not version or "/" in version:  # what follows the colon of a registry is its port
        raise typer.BadParameter(f"--tag {tag}: write name:version, such as {BASE_IMAGE}")
    console = open_console(stderr=as_json)
    with only_json(as_json), console.status("starting") as status:

        def show(line: str) -> None:
            status.update(printable(line)[:100])

        if pull is None:
            made = image.build(show, tag=tag, suite=suite, mirror=mirror)
        else:
            made = image.pull(show, pull, tag=tag)
        show("running a program in it")
        python = asyncio.run(_try(tag))
    if as_json:
        print_json({"image": tag, "id": made, "python": python})
    else:
        console.print(f"{tag} is there; programs get Python {python}")


async def _try(tag: str) -> str:
    """The version of its Python. Raises `SandboxUnavailable` when no program runs in it."""
    code = "import sys; print(sys.version.split()[0])"
    async with open_sandbox(SandboxSpec(backend="docker", image=tag)) as box:
        result = await box.run(["python3", "-c", code])
    if not result.ok:
        raise SandboxUnavailable(f"python3 does not run in {tag}: {result.stderr.decode(errors='replace')}")
    return result.stdout.decode().strip()
