"""Calls that were cancelled, on every backend: what they leave, and what is heard of them."""

import asyncio
import gc
from collections.abc import Iterator

import pytest
from any_box import leaves_nothing, on_each_backend, play

from palaestra.sandboxes import Sandbox, SandboxFileError, SessionResult


@pytest.fixture(autouse=True)
def _nothing_is_left(backend: str) -> Iterator[None]:
    yield from leaves_nothing(backend)


@on_each_backend
def test_a_large_write_that_is_cancelled_leaves_no_half(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        for turns in (1, 2, 4, 8):
            writing = asyncio.create_task(box.write("large", bytes(3 << 20)))
            for _ in range(turns):
                await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert await box.list() == []
        await box.write("empty", b"")
        await box.run(["mkdir", "folder"])
        with pytest.raises(SandboxFileError):
            await box.write("folder", bytes(3 << 20))
        assert await box.list() == ["empty", "folder/"]

    play(backend, part)


@on_each_backend
def test_a_call_with_a_key_that_nobody_waits_for_ends_in_silence(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def part(box: Sandbox) -> None:
        call = asyncio.create_task(box.run(["sleep", "60"], key="once"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    play(backend, part)
    gc.collect()
    assert not caplog.records


@on_each_backend
def test_a_session_s_call_that_is_cancelled_as_the_sandbox_goes_is_cancelled(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        session = await box.python()
        call = asyncio.create_task(session.run("import time; time.sleep(60)", timeout_s=90))
        await asyncio.sleep(0.2)
        await asyncio.gather(box.close(), cancelled(call))

    async def cancelled(call: asyncio.Task[SessionResult]) -> None:
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    play(backend, part)
