"""Grades by events on AWS Lambda: boto3 speaks to a local endpoint, which runs the handler."""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graded_rooms import QUICK, fates, key_of, outcome_in, under_way, until
from lambda_service import ARN, LambdaService
from rewards import write
from support import run_async

from palaestra.agents.grading.callback import CallbackServer
from palaestra.agents.grading.event import LambdaEvent
from palaestra.agents.grading.job import GradeLimits
from palaestra.agents.ledger import Ledger
from palaestra.envs import Outcome, Scored, Ungraded

pytest.importorskip("boto3")

JUDGE = """
import base64, json

def lambda_handler(event, context):
    (episode,) = event["episodes"]
    left = base64.b64decode(episode["workspace"]["files"][0][1]).decode()
    evidence = left + event["task"]["reference"]
    answer(event, json.dumps({"scores": [{"reward": 0.5, "turns": [0.0, 1.0], "evidence": evidence}]}))
    return "nobody reads this"
"""
TO_S3 = """
def answer(event, text):
    import boto3
    bucket, _, key = event["answer_at"].removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=text.encode())
"""
TO_PAGE = """
def answer(event, text):
    from urllib.request import Request, urlopen
    urlopen(Request(event["answer_at"], text.encode(), method="PUT"))
"""
TO_US = """
def answer(event, text):
    from urllib.request import Request, urlopen
    place = event["callback"]
    headers = {"Authorization": "Bearer " + place["token"]}
    urlopen(Request(place["url"], text.encode(), headers, method="POST"))
"""
GRADE = Scored(reward=0.5, turns=(0.0, 1.0), evidence="0the-reference")


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials and a region as a user has them, and no file of this machine."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


def invoking(
    folder: Path,
    service: LambdaService,
    patch: pytest.MonkeyPatch,
    limits: GradeLimits = QUICK,
    *,
    calls_back: bool = False,
    answers: str | None = "s3://bucket/grades",
) -> AbstractAsyncContextManager[tuple[Ledger, asyncio.Task[None]]]:
    """The grade of one episode under way at the function."""
    patch.setenv("AWS_ENDPOINT_URL_S3", service.url)

    def adapter(ledger: Ledger) -> LambdaEvent:
        return LambdaEvent(
            ARN,
            answers=None if answers is None else answers.format(url=service.url),
            callback=CallbackServer(ledger) if calls_back else None,
            endpoint_url=service.url,
        )

    return under_way(folder, adapter, limits)


def graded(folder: Path, service: LambdaService, patch: pytest.MonkeyPatch, **options: Any) -> Outcome:
    """The outcome by a function that runs at once."""

    async def main() -> Outcome:
        service.gate.set()
        async with service, invoking(folder, service, patch, **options) as (ledger, waiting):
            await waiting
            return outcome_in(ledger)

    return run_async(main())


@pytest.mark.parametrize(
    ("code", "where"),
    [
        (TO_S3, {}),
        (TO_PAGE, {"answers": "{url}/pages/"}),
        (TO_US, {"answers": None, "calls_back": True}),
        (TO_US, {"calls_back": True}),
    ],
    ids=["s3", "page", "callback", "callback beside s3"],
)
def test_a_function_that_is_invoked_by_an_event_gives_the_grade(
    code: str, where: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = LambdaService(write(tmp_path, JUDGE + code))
    assert graded(tmp_path, service, monkeypatch, **where) == GRADE
    assert len(service.events) == len(service.tries) == 1


def test_a_restart_looks_for_the_answer_and_invokes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function ends while nobody is there."""

    async def main() -> None:
        async with LambdaService(write(tmp_path, JUDGE + TO_S3)) as service:
            async with invoking(tmp_path, service, monkeypatch) as (ledger, _):
                await until(lambda: ledger.grades.open([key_of()]).handle is not None)
                assert ledger.counts("train") == {"played": 1}
            await service.idle()
            async with invoking(tmp_path, service, monkeypatch) as (ledger, waiting):
                await waiting
                assert outcome_in(ledger) == GRADE
            assert len(service.events) == len(service.tries) == 1

    run_async(main())


def test_an_event_that_is_run_twice_gives_one_grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        service = LambdaService(write(tmp_path, JUDGE + TO_US), runs_each=2)
        service.gate.set()
        async with service, invoking(tmp_path, service, monkeypatch, calls_back=True) as (ledger, waiting):
            await waiting
            await service.idle()
            assert outcome_in(ledger) == GRADE
            assert fates(ledger) == {"kept": 1, "duplicate": 1}
        assert len(service.events) == 1 and len(service.tries) == 2

    run_async(main())


def test_throttling_gets_the_same_key_again_and_a_refusal_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, JUDGE + TO_S3)
    service = LambdaService(path, iter((429, 503, 500)))
    assert graded(tmp_path, service, monkeypatch) == GRADE and len(service.events) == 1
    for status in (403, 413):
        (tmp_path / str(status)).mkdir()
        found = graded(tmp_path / str(status), LambdaService(path, iter([status])), monkeypatch)
        assert isinstance(found, Ungraded) and "does not take an event of" in found.reason


def test_a_function_that_raises_is_run_three_times_and_gives_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = LambdaService(write(tmp_path, "def lambda_handler(event, context):\n    return 1 / 0"))
    limits = replace(QUICK, attempt_s=0.3, max_attempts=2)
    found = graded(tmp_path, service, monkeypatch, limits=limits)
    assert found == Ungraded(reason="timeout: the grader took over 0.3 s")
    assert [each["attempt"] for each in service.events] == [0, 1], "each try is an event of its own"
    assert len(service.tries) == 6 and len(set(service.tries)) == 2


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('{"scores": [{"reward": NaN}]}', "nonsense: scores.0"),
        ('{"scores": [{"reward": 7}]}', "range: the reward 7 is outside"),
        ('{"status": "failed", "error": "no model", "retryable": false}', "crash: no model"),
        ("about 0.7", "nonsense"),
    ],
)
def test_an_answer_that_makes_no_sense_gives_no_number(
    said: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"def lambda_handler(event, context):\n    answer(event, {said!r})\n"
    found = graded(tmp_path, LambdaService(write(tmp_path, code + TO_S3)), monkeypatch)
    assert isinstance(found, Ungraded) and why in found.reason


def test_an_answer_that_may_not_be_read_says_which_right_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = LambdaService(write(tmp_path, JUDGE + TO_S3), forbids=True)
    found = graded(tmp_path, service, monkeypatch)
    assert isinstance(found, Ungraded) and "needs s3:GetObject and s3:ListBucket" in found.reason
    (tmp_path / "page").mkdir()
    service = LambdaService(write(tmp_path, JUDGE + TO_PAGE), forbids=True)
    found = graded(tmp_path / "page", service, monkeypatch, answers="{url}/pages")
    assert isinstance(found, Ungraded) and "answered 403" in found.reason


def test_an_endpoint_that_is_away_is_asked_again_until_the_time_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        adapter = LambdaEvent(ARN, answers="s3://b", endpoint_url="http://127.0.0.1:9")
        limits = replace(QUICK, attempt_s=3, total_s=3)
        async with under_way(tmp_path, lambda _: adapter, limits) as (ledger, waiting):
            await waiting
            found = outcome_in(ledger)
            assert isinstance(found, Ungraded) and "EndpointConnectionError" in found.reason
            assert fates(ledger) == {"broken": 1}, "the try, which was the last"

    run_async(main())


def test_missing_credentials_are_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    found = graded(tmp_path, LambdaService(write(tmp_path, JUDGE + TO_S3)), monkeypatch)
    assert isinstance(found, Ungraded) and "NoCredentialsError" in found.reason


@pytest.mark.parametrize(
    "answers", ["bucket/grades", "ftp://host/x", "https://me:pw@host/x", "https://h/x?sig=1"]
)
def test_a_place_for_answers_that_is_none_is_refused(answers: str) -> None:
    with pytest.raises(ValueError, match=r"give s3://bucket/prefix or http\(s\)://host/path"):
        LambdaEvent(ARN, answers=answers)


def test_a_function_whose_answers_go_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="must say where answers go"):
        LambdaEvent(ARN)
