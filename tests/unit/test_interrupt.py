"""Signals stop a run between its moves, and cancel what can be done again."""

import asyncio
import os
import signal

import pytest

from palaestra.trainer.interrupt import Interrupt, Interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_interruptible_work_and_has_the_shells_exit_code(number: int, code: int) -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def collect() -> None:
            os.kill(os.getpid(), number)
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        with Interrupt() as interrupt, pytest.raises(Interrupted) as stopped:
            await interrupt.during(collect())
        assert cancelled.is_set()
        assert stopped.value.exit_code == code
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_signal_during_other_work_is_seen_at_the_next_check() -> None:
    async def main() -> None:
        with Interrupt() as interrupt:
            interrupt.check()
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Interrupted, match="SIGINT"):
                while True:
                    await asyncio.sleep(0)
                    interrupt.check()

    asyncio.run(main())


def test_work_that_ends_gives_its_result_or_its_error() -> None:
    async def good() -> int:
        return 3

    async def bad() -> int:
        raise KeyError("x")

    async def main() -> None:
        with Interrupt() as interrupt:
            assert await interrupt.during(good()) == 3
            with pytest.raises(KeyError):
                await interrupt.during(bad())

    asyncio.run(main())


def test_cancelling_the_caller_cancels_the_work() -> None:
    async def main() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        with Interrupt() as interrupt:
            caller = asyncio.create_task(interrupt.during(work()))
            await started.wait()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        assert ended.is_set()

    asyncio.run(main())
