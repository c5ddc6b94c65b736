"""The Docker backend against a real engine: how programs end, and how containers do."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from docker_box import engine, no_process_is_left, play
from sleepers import until_there
from support import require, run_async

from palaestra.sandboxes import SandboxFileError, SandboxLost, SandboxSpec, SandboxUnavailable
from palaestra.sandboxes._docker import containers
from palaestra.sandboxes._docker.owner import host_label, owner_label
from palaestra.sandboxes.docker import DockerSandbox, create_docker_sandbox

pytestmark = pytest.mark.docker


@pytest.fixture(autouse=True)
def _engine_is_there() -> None:
    require("docker")


def exists(container: str) -> bool:
    with engine() as api:
        return bool(api.containers(all=True, filters={"id": container}))


def test_every_kind_of_end_has_its_status() -> None:
    async def part(box: DockerSandbox) -> None:
        fine = await box.run(["python3", "-c", "print(6 * 7)"])
        assert (fine.status, fine.exit_code, fine.stdout, fine.stderr) == ("ok", 0, b"42\n", b"")
        assert 0 < fine.cpu_s < 5 and fine.wall_s > 0 and fine.max_rss_mb > 1
        wrong = await box.run(["sh", "-c", "echo no >&2; exit 7"])
        assert (wrong.status, wrong.exit_code, wrong.stderr) == ("nonzero", 7, b"no\n")
        missing = await box.run(["no-such-program"])
        assert (missing.status, missing.exit_code) == ("nonzero", 127)
        killed = await box.run(["sh", "-c", "kill -SEGV $$"])
        assert (killed.status, killed.exit_code) == ("killed", None)
        late = await box.run(["sh", "-c", "trap '' TERM; kill -STOP $$"], timeout_s=0.3)
        assert (late.status, late.exit_code) == ("timeout", None)
        assert 0.3 <= late.wall_s < 0.3 + 0.25

    play(part)


def test_any_bytes_and_names_are_kept_as_they_are() -> None:
    async def part(box: DockerSandbox) -> None:
        odd = "-rf \n\udcff'$(id)"
        assert (await box.run(["printf", "%s", odd])).stdout == os.fsencode(odd)
        await box.write(odd, b"\x00\xff")
        assert await box.list() == [odd]
        with pytest.raises(SandboxFileError):
            await box.write("half\ud800", b"")
        assert await box.read(odd) == b"\x00\xff"
        await box.remove(odd)
        assert await box.list() == []

    play(part)


def test_a_guest_that_memory_took_along_is_still_the_programs_doing() -> None:
    # Files fill what they may, the program gives up its rank, and each of its processes stays small.
    code = """
echo 0 > /proc/self/oom_score_adj
head -c 100M /dev/zero > /dev/shm/x; head -c 100M /dev/zero > /tmp/x
for i in $(seq 50); do perl -e '$x = "x" x 2000000; sleep 20' & done
wait
"""

    async def part(box: DockerSandbox) -> None:
        assert (await box.run(["sh", "-c", code], timeout_s=10)).status == "oom"
        assert (await box.run(["true"])).status == "oom"
        with pytest.raises(SandboxFileError, match="memory"):
            await box.list()

    play(part, memory_mb=64)


def test_a_cancelled_run_kills_its_program_and_the_sandbox_stays_good() -> None:
    async def part(box: DockerSandbox) -> None:
        running = asyncio.ensure_future(box.run(["sh", "-c", "touch up; setsid sleep 60 & sleep 60"]))
        await until_there(box, "up")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await box.list() == ["up"]
        await no_process_is_left(box)

    play(part)


DRIVER = """
import asyncio
from palaestra.sandboxes import SandboxSpec
from palaestra.sandboxes.docker import create_docker_sandbox

async def main():
    box = await create_docker_sandbox(SandboxSpec(backend="docker"))
    print(box.container, flush=True)
    {then}

asyncio.run(main())
"""


def driver(then: str) -> "subprocess.Popen[bytes]":
    code = DRIVER.format(then=then)
    return subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE)


def test_what_a_driver_left_between_two_calls_is_swept_by_the_next() -> None:
    with engine() as api:

        def abandoned(owner: str | None) -> str:
            host = host_label()
            labels = {"palaestra": "1", "palaestra.host": host, "palaestra.owner": owner or ""}
            return str(api.create_container(containers.BASE_IMAGE, ["true"], labels=labels)["Id"])

        ours = owner_label(os.getpid())
        stale = abandoned(f"another-boot/{os.getpid()}/1")
        alive = abandoned(ours)
        try:
            with driver("await box.close()") as process:
                assert process.wait(30) == 0
            assert not exists(stale)
            assert exists(alive)
        finally:
            api.remove_container(alive)


def test_closing_twice_is_fine_and_nothing_works_after() -> None:
    async def main() -> None:
        box = await create_docker_sandbox(SandboxSpec(backend="docker"))
        assert isinstance(box, DockerSandbox)
        await asyncio.gather(box.close(), box.close())
        await box.close()
        assert not exists(box.container)
        for call in (box.run(["true"]), box.write("a", b""), box.read("a"), box.list(), box.remove("a")):
            with pytest.raises(SandboxLost, match="closed"):
                await call

    run_async(main())


@pytest.mark.parametrize("engine_answers", [True, False])
def test_a_container_that_dies_under_a_call_is_a_lost_sandbox(
    engine_answers: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def part(box: DockerSandbox) -> None:
        running = asyncio.ensure_future(box.run(["sh", "-c", "touch up; sleep 60"], timeout_s=60))
        await until_there(box, "up")
        with engine() as api:
            if not engine_answers:
                monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
            await asyncio.to_thread(api.remove_container, box.container, force=True)
        with pytest.raises(SandboxLost):
            await running
        with pytest.raises(SandboxLost):
            await box.list()

    play(part)


def test_a_cancelled_creation_leaves_no_container() -> None:
    async def main() -> None:
        spec = SandboxSpec(backend="docker")
        creations = [asyncio.ensure_future(create_docker_sandbox(spec)) for _ in range(3)]
        for delay_s, creation in zip((0.0, 0.1, 0.2), creations, strict=True):
            await asyncio.sleep(delay_s)
            creation.cancel()
        done = await asyncio.gather(*creations, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in done)

    run_async(main())
    owner = owner_label(os.getpid())
    deadline = time.monotonic() + 2
    with engine() as api:
        while api.containers(all=True, filters={"label": f"palaestra.owner={owner}"}):
            assert time.monotonic() < deadline, "a container is left"
            time.sleep(0.02)


def refused(**spec: Any) -> str:
    with pytest.raises(SandboxUnavailable) as caught:
        play(no_process_is_left, **spec)
    return str(caught.value)


def test_what_cannot_be_had_is_refused_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "docker pull no-such-image:1" in refused(image="no-such-image:1")
    assert "1000" in refused(cpus=1000) or "CPU" in refused(cpus=1000)
    assert "memory_mb" in refused(memory_mb=8)
    monkeypatch.setitem(sys.modules, "docker", None)
    assert 'pip install "palaestra[docker]"' in refused()


def test_a_dead_engine_is_refused_with_a_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    assert ".ci/docker-up" in refused()


def test_an_image_with_a_volume_of_its_own_is_refused() -> None:
    with engine() as api:
        container = api.create_container(containers.BASE_IMAGE, ["true"])["Id"]
        try:
            api.commit(container, repository="palaestra-test-volume", changes=["VOLUME /data"])
            assert "VOLUME /data" in refused(image="palaestra-test-volume")
        finally:
            api.remove_container(container)
            api.remove_image("palaestra-test-volume")
