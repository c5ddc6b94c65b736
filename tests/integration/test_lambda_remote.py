"""Unmodified `lambda_handler` functions behind HTTP and Lambda's API: calls that are shared, repeated, made
again sample by sample, and never twice for nothing."""

from pathlib import Path

import pytest
from rewards import SAGEMAKER, RewardServer, grade, reasons, rewards, serving, write
from support import run_async

from palaestra.envs import Scored
from palaestra.envs.graders import Grader, LambdaReward, UnknownReward, load_reward
from palaestra.envs.graders._functions.reply import RewardFailed

FRAGILE = SAGEMAKER.replace("rows = []", "rows = []\n    assert 'boom' not in json.dumps(event), 'too loud'")


@pytest.fixture(params=["http", "lambda"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "lambda":
        pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    return str(request.param)


def remote(kind: str, server: RewardServer, **options: float) -> Grader:
    if kind == "http":
        return load_reward(server.url + "/grade", retry_s=0.01, **options)
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:grade"
    return load_reward(arn, endpoint_url=server.url, retry_s=0.01, **options)


def test_a_remote_function_grades_a_batch(tmp_path: Path, kind: str) -> None:
    with serving(write(tmp_path, SAGEMAKER)) as server:
        assert rewards(grade(remote(kind, server), "4", "5", "4")) == [1.0, 0.0, 1.0]
    assert server.calls == [3]
    assert "grade" in server.requests[0][0]
    assert ("/invocations" in server.requests[0][0]) == (kind == "lambda")


def test_throttling_and_server_errors_are_retried_and_count_once(tmp_path: Path, kind: str) -> None:
    with serving(write(tmp_path, SAGEMAKER), 429, 503, 500) as server:
        assert rewards(grade(remote(kind, server), "4", "5")) == [1.0, 0.0]
    assert server.calls == [2] and len(server.requests) == 4


def test_a_server_that_stays_busy_gives_no_number(tmp_path: Path, kind: str) -> None:
    with serving(write(tmp_path, SAGEMAKER), *[429] * 9) as server:
        assert "no answer in 3 tries" in reasons(grade(remote(kind, server, retries=2), "4", "5"))
    assert server.calls == [] and len(server.requests) == 3


def test_a_refusal_is_not_retried(tmp_path: Path, kind: str) -> None:
    with serving(write(tmp_path, SAGEMAKER), 403) as server:
        assert "not now" in reasons(grade(remote(kind, server), "4"))
    assert server.calls == [] and len(server.requests) == 1


def test_a_remote_function_that_crashes_gives_no_number_and_is_not_retried(tmp_path: Path, kind: str) -> None:
    with serving(write(tmp_path, FRAGILE)) as server:
        outcomes = grade(remote(kind, server), "4", "boom")
    assert rewards(outcomes) == [1.0, None] and "too loud" in reasons(outcomes[1:])
    assert sorted(server.calls) == [1, 1, 2]


def test_one_answer_that_hangs_leaves_the_others_their_grades_within_twice_the_limit_of_a_call(
    tmp_path: Path, kind: str
) -> None:
    code = "import time\n" + SAGEMAKER.replace(
        "rows = []", "rows = []\n    'hang' in str(event) and time.sleep(6)"
    )
    with serving(write(tmp_path, code)) as server:
        outcomes = grade(remote(kind, server, timeout_s=1.5), "hang", *["4"] * 15, timeout_s=3.0)
    assert rewards(outcomes) == [None, *[1.0] * 15]
    assert server.calls[:2] == [16, 1] and len(server.calls) == 17


def test_one_answer_that_the_function_answers_with_500_leaves_the_others_their_grades(
    tmp_path: Path, kind: str
) -> None:
    refuses = "if 'boom' in str(event): return {'statusCode': 500, 'body': 'boom'}"
    code = SAGEMAKER.replace("rows = []", f"rows = []\n    {refuses}")
    with serving(write(tmp_path, code)) as server:
        outcomes = grade(remote(kind, server, retries=1), "4", "boom", "5")
    assert rewards(outcomes) == [1.0, None, 0.0]
    assert "no answer in 2 tries; the last one: the function answered with statusCode 500" in reasons(
        outcomes[1:2]
    )
    assert sorted(server.calls) == [1, 1, 1, 1, 3, 3]


def test_a_grade_that_runs_out_of_time_says_what_went_wrong_last(tmp_path: Path, kind: str) -> None:
    with serving(write(tmp_path, SAGEMAKER), *[503] * 999) as server:
        why = reasons(grade(remote(kind, server, retries=999), "4", timeout_s=0.5))
    assert why.startswith("timeout: the grader took over 0.5 s; the last trouble: ") and "not now" in why


def test_no_more_calls_run_at_a_time_than_allowed(tmp_path: Path, kind: str) -> None:
    code = """
import threading, time
running, most, lock = 0, 0, threading.Lock()

def lambda_handler(event, context):
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    time.sleep(0.05)
    with lock:
        running -= 1
    return [{"id": s["id"], "aggregate_reward_score": 0, "metrics_list":
             [{"name": "most", "value": most, "type": "Metric"}]} for s in event]
"""
    with serving(write(tmp_path, code)) as server:
        outcomes = grade(remote(kind, server, batch=2, concurrency=2), *"0123456789")
    assert max(found.components["most"] for found in outcomes if isinstance(found, Scored)) <= 2
    assert len(server.calls) == 5


def test_a_slow_remote_function_is_not_asked_twice(tmp_path: Path, kind: str) -> None:
    slow = "import time\n" + SAGEMAKER.replace("rows = []", "rows = []\n    time.sleep(1.5)")
    with serving(write(tmp_path, slow)) as server:
        assert "no reply within 0.5 s" in reasons(grade(remote(kind, server, timeout_s=0.5), "4"))
        assert len(server.requests) == 1


def test_nobody_at_the_url_is_no_number() -> None:
    reward = load_reward("http://127.0.0.1:9/grade", retries=1, retry_s=0.01)
    assert "cannot be reached" in reasons(grade(reward, "4"))


def test_nobody_at_the_url_is_found_before_a_run(tmp_path: Path, kind: str) -> None:
    with serving(write(tmp_path, SAGEMAKER)) as server:
        reward = remote(kind, server)
        assert isinstance(reward, LambdaReward)
        run_async(reward.check())
        assert not server.requests, "nothing is asked of it"
    with pytest.raises(RewardFailed, match=r"127.0.0.1:\d+ refuses the connection; start the server"):
        run_async(reward.check())


def test_a_bearer_token_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_KEY", "c4n4ry\n")
    with serving(write(tmp_path, SAGEMAKER)) as server:
        assert rewards(grade(load_reward(server.url, api_key_env="GRADER_KEY"), "4")) == [1.0]
        assert server.requests[0][1] == "Bearer c4n4ry"
        monkeypatch.delenv("GRADER_KEY")
        assert "GRADER_KEY" in reasons(grade(load_reward(server.url, api_key_env="GRADER_KEY"), "4"))


def test_a_function_without_a_region_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("boto3")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UnknownReward, match="AWS_REGION"):
        load_reward("lambda:grade")
