"""Archives in real sandboxes: round trips of odd names, and nothing written of what was refused."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from archives import HOSTILE_TARS, HOSTILE_ZIPS, TREES, Zipped, tar, tar_member, zipped
from embedded_box import TIERS, need
from hypothesis import given, settings
from support import require, run_async

from palaestra.sandboxes import (
    ArchiveLimits,
    ArchiveRefused,
    Sandbox,
    SandboxFileError,
    SandboxSpec,
    open_sandbox,
    pack,
    unpack,
)
from palaestra.sandboxes._archive.tar import tar_of

on_each_backend = pytest.mark.parametrize(
    "backend", [*TIERS, pytest.param("docker", marks=pytest.mark.docker)]
)


@pytest.fixture(autouse=True)
def _backend_is_there(backend: str) -> None:
    require("docker") if backend == "docker" else need(backend)


def play(backend: str, part: Callable[[Sandbox], Awaitable[None]], **limits: Any) -> None:
    async def whole() -> None:
        async with open_sandbox(SandboxSpec(backend=backend, **limits)) as box:
            await part(box)

    run_async(whole())


async def sh(box: Sandbox, script: str) -> str:
    result = await box.run(["bash", "-c", script])
    assert result.ok, result.stderr.decode(errors="replace")
    return result.stdout.decode(errors="surrogateescape")


@on_each_backend
def test_unpacking_and_packing_any_tree_gives_the_same_archive(backend: str) -> None:
    with asyncio.Runner() as runner:
        opened = open_sandbox(SandboxSpec(backend=backend))
        box = runner.run(opened.__aenter__())

        @settings(deadline=None, max_examples=40)
        @given(tree=TREES)
        def holds(tree: dict[str, bytes]) -> None:
            runner.run(round_trip(box, tree))

        try:
            holds()
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def round_trip(box: Sandbox, tree: dict[str, bytes]) -> None:
    for name in await box.list():
        await box.remove(name)
    data = tar_of(tree.items())
    assert dict(zip(await unpack(box, data), tree, strict=True)) == {path: path for path in tree}
    packed = await pack(box)
    assert packed.data == data and packed.left_out == ()


@on_each_backend
def test_a_refused_archive_leaves_the_workspace_as_it_was(backend: str) -> None:
    archives = {name: tar(tar_member(b"good", b"x"), member) for name, (member, _) in HOSTILE_TARS.items()}
    archives |= {name: data for name, (data, _) in HOSTILE_ZIPS.items()}
    archives["cut short"] = tar(tar_member(b"good", b"x"))[:-1024]

    async def part(box: Sandbox) -> None:
        await box.write("kept", b"hi")
        before = await sh(box, "ls -lR --time-style=full-iso")
        for data in archives.values():
            with pytest.raises(ArchiveRefused):
                await unpack(box, data)
        assert await sh(box, "ls -lR --time-style=full-iso") == before

    play(backend, part)


@on_each_backend
@pytest.mark.parametrize("into", ["../out", "/tmp/out", "a/../../b", "a\0b", "x" * 256, "\ud800"])
def test_an_archive_goes_nowhere_outside(backend: str, into: str) -> None:
    async def part(box: Sandbox) -> None:
        with pytest.raises(ArchiveRefused, match="into="):
            await unpack(box, tar_of([("a", b"hi")]), into)
        assert await box.list() == []

    play(backend, part)


@on_each_backend
@pytest.mark.parametrize(
    ("into", "path"),
    [("link", "victim"), (".", "link/victim"), (".", "linked"), (".", "pipe"), (".", "real")],
)
def test_an_archive_is_not_written_through_what_a_program_left(backend: str, into: str, path: str) -> None:
    async def part(box: Sandbox) -> None:
        await sh(
            box, "mkdir real; ln -s real link; ln -s real/victim linked; echo 1 > real/victim; mkfifo pipe"
        )
        with pytest.raises(SandboxFileError, match="0 of the archive's 1 files were written before it"):
            await unpack(box, tar_of([(path, b"2")]), into)
        assert await sh(box, "cat real/victim; ls real") == "1\nvictim\n"

    play(backend, part)


@on_each_backend
def test_a_workspace_that_fills_up_says_how_far_it_came(backend: str) -> None:
    if backend == "landlock":
        pytest.skip("the landlock tier looks at its disk only while a program runs")

    async def part(box: Sandbox) -> None:
        files = [(f"f{n}", bytes(1 << 20)) for n in range(8)]
        with pytest.raises(SandboxFileError, match=r"[1-7] of the archive's 8 files were written") as refusal:
            await unpack(box, tar_of(files))
        assert not isinstance(refusal.value, ArchiveRefused)
        assert await sh(box, "echo alive") == "alive\n"

    play(backend, part, disk_mb=4)


@on_each_backend
def test_an_archive_replaces_files_and_keeps_the_others(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        await sh(
            box, "mkdir -p sub/d; echo old > sub/d/a; chmod 400 sub/d/a; echo b > sub/d/b; ln sub/d/a twin"
        )
        data = zipped(Zipped(name=b"d/a", content=b"new"), Zipped(name=b"e/"))
        assert await unpack(box, data, "./sub/") == ("sub/d/a",)
        assert await sh(box, "cat sub/d/a sub/d/b twin; ls sub; stat -c %a sub/d/a") == "newb\nold\nd\n644\n"

    play(backend, part)


@on_each_backend
def test_limits_of_the_caller_are_asked(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        with pytest.raises(ArchiveRefused, match="max_entries=1"):
            await unpack(box, tar_of([("a", b""), ("b", b"")]), limits=ArchiveLimits(max_entries=1))
        assert await box.list() == []

    play(backend, part)


@on_each_backend
def test_what_is_no_regular_file_is_left_out_and_named(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        await sh(
            box,
            "mkdir -p d/e closed; echo hi > d/e/f; ln -s /etc/passwd d/link; ln -s d d2; mkfifo d/pipe; "
            "echo secret > unreadable; chmod 000 unreadable closed; head -c 5000 /dev/zero > large; "
            "printf x > $'bad\\xffname'",
        )
        packed = await pack(box, max_bytes=1000)
        kept = tar_of([("bad\udcffname", b"x"), ("d/e/f", b"hi\n")])
        left_out = {one.path: one.reason for one in packed.left_out}
        assert packed.data == kept, left_out
        # The landlock tier opens directories that are closed, to add up its disk.
        assert left_out.keys() - {"closed/"} == {"d/link", "d/pipe", "d2", "large", "unreadable"}
        assert "closed/" in left_out or backend == "landlock"
        assert all(repr(path) in reason or path in reason for path, reason in left_out.items()), left_out
        assert (await pack(box, "d/e")).data == tar_of([("f", b"hi\n")])
        await sh(
            box, "chmod 700 closed; rm -r ./*; mkdir d; cd d; umask 077; echo hi > f; touch -d 1999-01-01 f"
        )
        assert (await pack(box)).data == tar_of([("d/f", b"hi\n")])

    play(backend, part)


@on_each_backend
def test_a_workspace_of_too_many_files_is_packed_in_part_and_says_so(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        await sh(box, "mkdir a b; touch 1; cd a; touch $(seq 50); mkdir c")
        packed = await pack(box, max_entries=20)
        assert {one.path: one.reason for one in packed.left_out} == {
            "a/": "34 of its 51 names are over max_entries=20",
            "b/": "not looked into: over max_entries=20",
        }
        assert len(await unpack(box, packed.data, "copy")) == 18

    play(backend, part)


@on_each_backend
@pytest.mark.parametrize("path", ["nowhere", "file", "../..", "/etc", "link"])
def test_what_is_no_directory_of_the_workspace_is_not_packed(backend: str, path: str) -> None:
    async def part(box: Sandbox) -> None:
        await sh(box, "touch file; mkdir d; ln -s d link")
        with pytest.raises(SandboxFileError):
            await pack(box, path)

    play(backend, part)
