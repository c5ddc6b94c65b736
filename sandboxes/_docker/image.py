"""The base image of the Docker backend: built from a Debian mirror, or pulled from a registry."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from ..errors import SandboxLost, SandboxUnavailable
from .containers import BASE_IMAGE
from .engine import open_engine

SUITE = "bookworm"
_LEFT_OUT = ("./var/cache/apt/archives/*", "./var/lib/apt/lists/*", "./proc/*", "./sys/*")

OnLine = Callable[[str], None]
"""Told what is going on, a line at a time."""


def build(on_line: OnLine, *, tag: str = BASE_IMAGE, suite: str = SUITE, mirror: str | None = None) -> str:
    """Make a minimal Debian with Python by debootstrap, and give it to the engine; the image's id.

    Needs root and debootstrap. Raises `SandboxUnavailable`, with what is missing or what debootstrap said.
    """
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        lack = "root" if os.geteuid() != 0 else "debootstrap (apt-get install debootstrap)"
        raise SandboxUnavailable(f"building an image needs {lack}; or pull one that has python3")
    source = mirror or _mirror_of_apt(suite)
    with tempfile.TemporaryDirectory(prefix="palaestra-image-") as root:
        on_line(f"debootstrap {suite} from {source}")
        _run(["debootstrap", "--variant=minbase", "--include=python3", suite, root, source], on_line)
        on_line(f"importing it as {tag}")
        try:
            return import_tree(root, tag)
        except SandboxLost as error:
            raise SandboxUnavailable(f"the image could not be imported: {error}") from error


def _mirror_of_apt(suite: str) -> str:
    """Where apt gets this suite from, so that a machine behind a mirror needs nothing more."""
    fields = [f"Codename: {suite}", "Created-By: Packages", "Component: main"]
    found = ""
    if shutil.which("apt-get") is not None:
        command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *fields]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if not found.strip():
        raise SandboxUnavailable(
            f"apt knows no source for {suite}: name one with --mirror, or run apt-get update"
        )
    return found.split()[0]


def _run(command: list[str], on_line: OnLine) -> None:
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            last = line.strip() or last
            on_line(last)
    if process.returncode:
        raise SandboxUnavailable(f"{command[0]} ended with exit code {process.returncode}: {last}")


def import_tree(root: str, tag: str) -> str:
    """Hand the tree to the engine as an image."""
    command = ["tar", "-C", root, "--numeric-owner", *(f"--exclude={path}" for path in _LEFT_OUT), "-c", "."]
    name, _, version = tag.rpartition(":")
    with open_engine() as (_, api), subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
        said: str = api.import_image_from_stream(
            _pieces(tar), repository=name, tag=version, changes=["ENV PYTHONDONTWRITEBYTECODE=1"]
        )
    if tar.returncode:
        raise SandboxUnavailable(f"tar ended with exit code {tar.returncode}")
    return _imported_id(said)


def _imported_id(said: str) -> str:
    """Of the engine's report: a line of JSON for each thing that it tells.

    >>> _imported_id('{"status":"sha256:54cb"}\\r\\n')
    'sha256:54cb'
    """
    last = json.loads(said.strip().rpartition("\n")[2] or "{}")
    if "status" not in last:
        raise SandboxLost(str(last.get("error", said)))
    return str(last["status"])


def _pieces(tar: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    assert tar.stdout is not None
    while piece := tar.stdout.read(1 << 20):
        yield piece


def pull(on_line: OnLine, name: str, *, tag: str = BASE_IMAGE) -> str:
    """Pull an image that has Python 3.8 or newer, and tag it; its id. Raises `SandboxUnavailable`."""
    repository, _, version = tag.rpartition(":")
    try:
        with open_engine() as (_, api):
            for event in api.pull(name, stream=True, decode=True):
                if "error" in event:
                    raise SandboxLost(event["error"])
                on_line(" ".join(str(event[key]) for key in ("status", "id", "progress") if key in event))
            api.tag(name, repository, version, force=True)
            return str(api.inspect_image(tag)["Id"])
    except SandboxLost as error:
        raise SandboxUnavailable(f"the image {name} could not be pulled: {error}") from error
