"""The embedded sandbox where user namespaces are forbidden for real: in a container as Docker makes it."""

import io
import json
import tarfile
from typing import Any

import pytest
from docker_box import engine
from support import ROOT, require

from palaestra.sandboxes._docker.containers import BASE_IMAGE

DRIVER = """
import asyncio, json
from palaestra.sandboxes import SandboxSpec, SandboxUnavailable, open_sandbox

PROBE = '''
import os, socket
def attempt(name, call):
    try: call()
    except OSError: return
    print("reached", name)
attempt("a file of the host", lambda: open("/host-secret").read())
attempt("the network", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("a system directory", lambda: open("/etc/planted", "w"))
print("environment", sorted(name for name in os.environ if "SECRET" in name))
'''

async def attempt(spec, *code):
    try:
        async with open_sandbox(spec) as box:
            results = [await box.run(["python3", "-c", each], timeout_s=20) for each in code]
            return [box.tier, *([str(result.status), result.stdout.decode()] for result in results)]
    except SandboxUnavailable as error:
        return ["unavailable", str(error)]

async def main():
    spec = SandboxSpec(memory_mb=64)
    print(json.dumps({
        "auto": await attempt(spec, "print(6 * 7)", PROBE, "bytearray(1 << 28)"),
        "namespaces": await attempt(SandboxSpec(backend="namespaces"), "print(6 * 7)"),
    }))

asyncio.run(main())
"""


def in_a_container(user: str) -> dict[str, Any]:
    """What the driver prints in a container with Docker's own profile, this tree mounted read-only."""
    with engine() as client:
        created = client.create_container(
            BASE_IMAGE,
            ["python3", "-c", DRIVER],
            user=user,
            environment={"PYTHONPATH": "/opt", "A_SECRET": "canary"},
            host_config=client.create_host_config(
                network_mode="none", binds=[f"{ROOT / 'sandboxes'}:/opt/palaestra/sandboxes:ro"]
            ),
        )
        try:
            client.put_archive(created["Id"], "/", _secret())
            client.start(created["Id"])
            status = client.wait(created["Id"], timeout=120)["StatusCode"]
            printed = client.logs(created["Id"], stdout=True, stderr=True).decode()
        finally:
            client.remove_container(created["Id"], force=True)
    assert status == 0, printed
    found: dict[str, Any] = json.loads(printed)
    return found


def _secret() -> bytes:
    """A tar archive with one file that anyone in the container may read."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("host-secret")
        member.size, member.mode = 6, 0o644
        archive.addfile(member, io.BytesIO(b"canary"))
    return buffer.getvalue()


@pytest.mark.parametrize("user", ["root", "1000:1000"])
def test_a_default_container_gets_the_landlock_tier_and_its_walls(user: str) -> None:
    require("docker")
    found = in_a_container(user)
    tier, hello, probe, bomb = found["auto"]
    assert (tier, hello) == ("landlock", ["ok", "42\n"])
    assert probe == ["ok", "environment []\n"]
    assert bomb[0] == "oom"
    refused, reason = found["namespaces"]
    assert refused == "unavailable" and "seccomp=unconfined" in reason
