"""What judges leave behind: requests that nobody waits for, an event loop that stood still, counts."""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web
from chat_endpoint import endpoint
from judging import GRADES, SUM, grades, point, said
from support import run_async

from palaestra.envs import Ungraded
from palaestra.envs.endpoint import EndpointRefused
from palaestra.envs.graders import Grader, grade_episode
from palaestra.envs.graders.judge import Judge, JudgeModel, PairJudge, VerdictCache
from palaestra.envs.graders.judge.brief import Brief
from palaestra.envs.together import together

WARM = {"temperature": 0.7, "max_tokens": 100}


def asking() -> list[str]:
    """The tasks of this loop that ask a judge."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith(("JudgeModel.", "PairJudge.", "Judge."))]


def votes(model: JudgeModel) -> Grader:
    return Judge(model=model, form=GRADES, votes=3)


def both_orders(model: JudgeModel) -> Grader:
    return PairJudge(model=model)


def votes_in_both_orders(model: JudgeModel) -> Grader:
    return PairJudge(model=model, votes=2)


@pytest.mark.parametrize(("make", "num_asked"), [(votes, 3), (both_orders, 2), (votes_in_both_orders, 4)])
def test_when_one_question_fails_the_others_are_ended_before_it_is_told(
    make: Callable[[JudgeModel], Grader], num_asked: int
) -> None:
    async def main() -> None:
        all_here, num_here = asyncio.Event(), 0

        async def refuses_the_last(request: web.Request) -> web.StreamResponse:
            nonlocal num_here
            num_here += 1
            if num_here < num_asked:
                await all_here.wait()
            return web.Response(status=401, text="no such key")

        async with endpoint(refuses_the_last) as found:
            grader = make(JudgeModel(found.url, "m", options=WARM))
            with pytest.raises(EndpointRefused, match="no such key"):
                await grader.grade(SUM, said("5"), None)
            assert len(found.asked) == num_asked and asking() == []
            all_here.set()

    run_async(main())


def test_a_limit_ends_all_questions_and_names_the_judge() -> None:
    async def hangs(request: web.Request) -> web.StreamResponse:
        return await asyncio.Future()

    async def main() -> None:
        async with endpoint(hangs) as found:
            judge = Judge(model=JudgeModel(found.url, "m", options=WARM), form=GRADES, votes=3)
            outcome = await grade_episode(judge, SUM, said("4"), timeout_s=0.5)
            assert isinstance(outcome, Ungraded) and "asking the judge m at" in outcome.reason
            assert asking() == []

    run_async(main())


def test_what_is_cancelled_has_tidied_up_when_the_error_is_told() -> None:
    tidied = list[str]()

    async def waits() -> str:
        try:
            return await asyncio.Future()
        finally:
            await asyncio.sleep(0)
            tidied.append("waits")

    async def breaks() -> str:
        raise LookupError("first")

    with pytest.raises(LookupError, match="first"):
        run_async(together(waits(), breaks(), waits()))
    assert tidied == ["waits", "waits"]
    assert run_async(together(asyncio.sleep(0, "a"), asyncio.sleep(0, "b"))) == ["a", "b"]


@pytest.mark.parametrize("is_known", [False, True])
def test_while_another_run_holds_the_cache_the_event_loop_goes_on(tmp_path: Path, is_known: bool) -> None:
    path = tmp_path / "verdicts.sqlite"

    async def main() -> None:
        async with endpoint(grades(3)) as found:
            judge = point(JudgeModel(found.url, "m", cache=VerdictCache(path)))
            if is_known:
                await judge.grade(SUM, said("4"), None)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                grading = asyncio.create_task(judge.grade(SUM, said("4"), None))
                for _ in range(10):
                    await asyncio.sleep(0.01)
                assert not grading.done() and len(found.asked) == is_known
                other.execute("COMMIT")
                assert (await grading).reward == 1.0
            assert len(found.asked) == 1

    run_async(main())


@pytest.fixture
def hasty_threads() -> Generator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_event_loops_in_threads_of_their_own_count_together() -> None:
    class Known(VerdictCache):
        """Knows every verdict."""

        def get(self, key: str) -> str | None:
            return '{"score": 3}'

    model = JudgeModel("http://127.0.0.1:1/v1", "m", cache=Known())
    brief = Brief(asks="Judge.", sections=(), fields={})

    async def ask_often() -> None:
        for _ in range(200):
            await model.ask(brief)

    threads = [threading.Thread(target=lambda: run_async(ask_often())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.spent.num_cached == 1200
