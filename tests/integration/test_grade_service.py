"""Graders behind HTTP: 202 and polls, callbacks with a token, and services that behave badly."""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grade_service import GradeService
from graded_rooms import QUICK, key_of, outcome_in, under_way, until
from support import run_async

from palaestra.agents.grading.callback import CallbackServer
from palaestra.agents.grading.job import GradeLimits
from palaestra.agents.grading.web import Web
from palaestra.agents.ledger import Ledger
from palaestra.envs import Outcome, Scored, Ungraded

DONE = {"scores": [{"reward": 0.5, "turns": [0.0, 1.0]}]}


def asking(
    folder: Path,
    service: GradeService,
    limits: GradeLimits = QUICK,
    *,
    calls_back: bool = False,
    **options: Any,
) -> AbstractAsyncContextManager[tuple[Ledger, asyncio.Task[None]]]:
    """The grade of one episode under way at the service."""

    def adapter(ledger: Ledger) -> Web:
        callback = CallbackServer(ledger) if calls_back else None
        return Web(service.url, callback=callback, **options)

    return under_way(folder, adapter, limits)


def graded(folder: Path, service: GradeService, **options: Any) -> Outcome:
    """The outcome by a service that does what it does by itself."""

    async def main() -> Outcome:
        async with service, asking(folder, service, **options) as (ledger, waiting):
            await waiting
            return outcome_in(ledger)

    return run_async(main())


def test_a_job_is_taken_with_202_and_asked_for_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADER_TOKEN", "s3cret")

    async def main() -> None:
        async with GradeService() as service:
            async with asking(tmp_path, service, token_env="GRADER_TOKEN") as (ledger, waiting):
                job = await service.taken(0)
                await until(lambda: job.num_polls > 2)
                job.answer = DONE
                await waiting
                assert outcome_in(ledger) == Scored(reward=0.5, turns=(0.0, 1.0))
            assert job.authorization == "Bearer s3cret"
            assert job.asked["task"]["reference"] == "the-reference"
            assert job.asked["episodes"][0]["workspace"]["files"] == [["sample", "MA=="]]
            assert service.deleted == [job.key]

    run_async(main())


def test_an_answer_to_the_submission_itself_is_the_grade(tmp_path: Path) -> None:
    assert graded(tmp_path, GradeService(at_once=DONE)) == Scored(reward=0.5, turns=(0.0, 1.0))


def test_a_service_that_is_down_gets_the_same_key_again(tmp_path: Path) -> None:
    service = GradeService(takes_after=3, at_once=DONE)
    assert isinstance(graded(tmp_path, service), Scored)
    assert len(service.keys) == 4 and len(set(service.keys)) == 1


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (GradeService(status=400), "answered 400 to a new job"),
        (GradeService(status=302), "answered 302 to a new job"),
        (GradeService(location=""), "202 without Location"),
        (GradeService(location="http://example.com/jobs/1"), "another host: it would get the token"),
        (GradeService(at_once={"scores": [{"reward": "high"}]}), "nonsense: scores.0"),
        (GradeService(at_once={"grade": 1.0}), "nonsense: no `scores`"),
        (GradeService(at_once={"scores": [{"reward": 2.0}]}), "range: the reward 2"),
        (GradeService(location="/elsewhere/{key}"), "lost: "),
    ],
)
def test_a_service_that_makes_no_sense_gives_no_number(
    service: GradeService, why: str, tmp_path: Path
) -> None:
    found = graded(tmp_path, service)
    assert isinstance(found, Ungraded) and why in found.reason


def test_a_worker_without_a_beat_is_given_up_and_the_next_try_counts(tmp_path: Path) -> None:
    async def main() -> None:
        limits = replace(QUICK, heartbeat_s=0.5)
        async with GradeService() as service, asking(tmp_path, service, limits) as (ledger, waiting):
            first = await service.taken(0)
            first.is_alive = False
            second = await service.taken(1)
            second.answer = DONE
            await waiting
            assert outcome_in(ledger) == Scored(reward=0.5, turns=(0.0, 1.0))
            assert second.asked["attempt"] == 1 and second.key != first.key

    run_async(main())


def test_a_callback_is_the_grade_and_a_second_one_is_a_duplicate(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            GradeService(location="") as service,
            asking(tmp_path, service, calls_back=True) as (ledger, waiting),
        ):
            job = await service.taken(0)
            assert job.asked["callback"]["url"].startswith("http://127.0.0.1:")
            assert await service.call_back(job, DONE) == (200, {"fate": "kept"})
            await waiting
            assert await service.call_back(job, DONE) == (200, {"fate": "duplicate"})
            changed = {"scores": [{"reward": 1.0}]}
            assert await service.call_back(job, changed) == (200, {"fate": "duplicate"})
            assert outcome_in(ledger) == Scored(reward=0.5, turns=(0.0, 1.0))

    run_async(main())


def test_a_callback_needs_the_token_of_its_own_job(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            GradeService() as service,
            asking(tmp_path, service, calls_back=True) as (ledger, waiting),
        ):
            job = await service.taken(0)
            for token in ("", "wrong", "ünïcode"):
                status, _ = await service.call_back(job, DONE, token=token)
                assert status == 401
            own = job.asked["callback"]["url"]
            job.asked["callback"]["url"] = own.replace(job.asked["id"], "0" * 32)
            assert (await service.call_back(job, DONE))[0] == 401
            assert ledger.counts("train") == {"played": 1} and not waiting.done()

    run_async(main())


def test_nonsense_by_callback_is_ungraded_and_the_sender_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            GradeService() as service,
            asking(tmp_path, service, calls_back=True) as (ledger, waiting),
        ):
            status, said = await service.call_back(await service.taken(0), {"scores": []})
            assert (status, said["fate"]) == (200, "broken") and "nonsense" in said["error"]
            await waiting
            assert isinstance(outcome_in(ledger), Ungraded)

    run_async(main())


def test_a_beat_by_callback_keeps_a_try_alive(tmp_path: Path) -> None:
    async def main() -> None:
        limits = replace(QUICK, heartbeat_s=1.0, max_attempts=1)
        async with (
            GradeService(location="") as service,
            asking(tmp_path, service, limits, calls_back=True) as (ledger, waiting),
        ):
            job = await service.taken(0)
            for _ in range(8):
                await asyncio.sleep(0.25)
                said = await service.call_back(job, {}, path="/beat")
                assert said == (200, {"alive": True})
            await service.call_back(job, DONE)
            await waiting
            assert isinstance(outcome_in(ledger), Scored)
            assert await service.call_back(job, {}, path="/beat") == (200, {"alive": False})

    run_async(main())


def test_after_a_restart_the_callback_finds_us_at_the_same_address(tmp_path: Path) -> None:
    async def main() -> None:
        async with GradeService() as service:
            async with asking(tmp_path, service, calls_back=True) as (ledger, _):
                job = await service.taken(0)
                await until(lambda: ledger.grades.open([key_of()]).handle is not None)
            async with asking(tmp_path, service, calls_back=True) as (ledger, waiting):
                assert await service.call_back(job, DONE) == (200, {"fate": "kept"})
                await waiting
            assert len(service.keys) == 1

    run_async(main())


def test_a_url_with_a_password_or_a_missing_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a password goes into token_env"):
        Web("http://me:pw@host/jobs")
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    with pytest.raises(ValueError, match="NO_SUCH_TOKEN is not set"):
        Web("http://host/jobs", token_env="NO_SUCH_TOKEN")
