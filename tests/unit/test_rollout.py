"""One episode, whatever its environment and grader return: it is recorded, and the record reads back."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from rooms import TASK, Room, says
from support import run_async

from palaestra.agents.engine import PolicyVersion, VersionSpan
from palaestra.agents.ledger import Ledger
from palaestra.agents.rollout import Rollout
from palaestra.agents.tokengraph import Call, Segment, TokenGraph
from palaestra.agents.trajectory import EpisodeKey, Trajectory
from palaestra.envs import (
    AssistantMessage,
    Env,
    Episode,
    Failed,
    Message,
    Observation,
    Policy,
    Score,
    Scored,
    Step,
    Task,
    ToolCall,
    ToolSpec,
    Ungraded,
    Workspace,
)

V0 = PolicyVersion(0)
KEY = EpisodeKey(epoch=0, task_id=TASK.id, sample=0)


def kept(env: Env[Any], folder: Path, policy: Policy | None = None) -> Trajectory:
    """The trajectory of one rollout, which the run file must give back as it is."""
    rollout = Rollout(
        make_env=lambda: env, make_policy=lambda task, version, seed: policy or says("end"), run_seed=0
    )
    with Ledger(folder) as ledger:
        ledger.issue(KEY, V0)
        played = run_async(rollout(KEY, TASK, V0))
        ledger.finish(played)
        assert ledger.finished(KEY) == played
    return played


class Judged(Room):
    """Its grader says what `make` makes."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.make = make
        self.grader = self

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        return self.make()  # type: ignore[no-any-return]  # that is the point


@pytest.mark.parametrize(
    "number", [Decimal("0.5"), Fraction(1, 2), np.float32(0.5), np.float64(0.5), 0.5], ids=repr
)
def test_a_number_of_any_kind_is_a_score(number: Any, tmp_path: Path) -> None:
    score = Judged(lambda: Score(reward=number, components={"part": number}))
    assert kept(score, tmp_path).outcome == Scored(reward=0.5, components={"part": 0.5})


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Score(reward="1"), "Score.reward is '1'"),  # type: ignore[arg-type]  # that is the point
        (lambda: Score(reward=10**400), "Score.reward is 1000"),
        (lambda: Score(reward=10**20), "range: the reward 1e+20 is outside"),
        (lambda: Score(reward=1, components={"len": math.nan}), "Score.components['len'] is nan"),
        (lambda: Score(reward=1, components={"len": None}), "Score.components['len'] is None"),  # type: ignore[dict-item]
        (lambda: Score(reward=1, components={"ok": "yes"}), "Score.components['ok'] is 'yes'"),  # type: ignore[dict-item]
        (lambda: Score(reward=1, components={1: 1.0}), "is 1; it must be str"),  # type: ignore[dict-item]
        (lambda: Score(reward=1, evidence=None), "is None; it must be str"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_score_is_ungraded_and_says_why(make: Callable[[], Any], why: str, tmp_path: Path) -> None:
    outcome = kept(Judged(make), tmp_path).outcome
    assert isinstance(outcome, Ungraded) and why in outcome.reason


class Odd(Room):
    """Overrides what the keywords name."""

    def __init__(
        self,
        *,
        facts: Any = MappingProxyType({}),
        left: Workspace | None = None,
        tools: Any = (),
        heard: Any = (),
    ) -> None:
        super().__init__()
        self.odd_facts, self.left, self.tools, self.heard = facts, left, tools, heard
        self.opening: Any = list(TASK.messages)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return Observation(messages=self.opening, tools=self.tools)

    async def step(self, action: AssistantMessage) -> Step:
        return Step(Observation(messages=self.heard), 0.5, True, False, {})

    async def workspace(self) -> Workspace | None:
        return self.left

    def facts(self) -> Mapping[str, str]:
        return self.odd_facts  # type: ignore[no-any-return]  # that is the point


@pytest.mark.parametrize("facts", [{1: "x"}, {"n": 1}, 5])
def test_facts_that_are_no_text_are_an_error_on_record_and_the_grade_stands(
    facts: Any, tmp_path: Path
) -> None:
    played = kept(Odd(facts=facts), tmp_path)
    assert played.reward == 0.5 and "close" in dict(played.episode.env_info)["close_error"]


def test_a_file_name_that_is_not_utf8_keeps_its_episode_and_its_grade(tmp_path: Path) -> None:
    played = kept(Odd(left=Workspace(files=((os.fsdecode(b"\xff.txt"), b"\xff"),))), tmp_path)
    assert played.reward == 0.5 and played.episode.workspace == Workspace(files=(("?.txt", b"\xff"),))


@pytest.mark.parametrize(
    "env",
    [
        Odd(tools=[ToolSpec(name="x", parameters={"enum": {1, object()}})]),
        Odd(tools=[ToolSpec(name=5)]),  # type: ignore[arg-type]  # that is the point
        Odd(left=Workspace(files=(("a", "text"),))),  # type: ignore[arg-type]  # that is the point
    ],
)
def test_an_episode_without_a_form_on_disk_has_failed(env: Env[Any], tmp_path: Path) -> None:
    played = kept(env, tmp_path)
    assert isinstance(played.outcome, Failed) and played.episode.failure == played.outcome
    assert (played.outcome.stage, played.outcome.retryable) == ("record", False)


class Broken:
    """A policy whose engine's log-probability is not a number."""

    @property
    def graph(self) -> TokenGraph:
        span = VersionSpan(version=V0, start=0, end=1)
        call = Call(prompt_ids=(1,), completion_ids=(2,), logprobs=(math.nan,), versions=(span,))
        return TokenGraph(segments=(Segment(calls=(call,)),))

    async def __call__(self, messages: Any, tools: Any) -> AssistantMessage:
        return AssistantMessage("end")


def test_tokens_without_a_number_fail_their_episode(tmp_path: Path) -> None:
    outcome = kept(Room(), tmp_path, Broken()).outcome
    assert isinstance(outcome, Failed) and outcome.stage == "record" and "logprobs" in outcome.message


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_call_that_json_cannot_carry_is_a_bad_call_and_no_null(number: float, tmp_path: Path) -> None:
    call = ToolCall(id="1", name="f", arguments={"a": number})
    played = kept(Room(), tmp_path, says(AssistantMessage("end", tool_calls=(call,))))
    (said,) = played.episode.answers
    assert (said.tool_calls, len(said.bad_calls)) == ((), 1)


def test_an_opening_with_an_example_is_no_turn(tmp_path: Path) -> None:
    shown: tuple[Message, ...] = (*TASK.messages, AssistantMessage("end"))
    rollout = Rollout(make_env=Room, make_policy=lambda task, version, seed: says("on", "end"), run_seed=0)
    played = run_async(rollout(KEY, replace(TASK, messages=shown), V0))
    assert [answer.content for answer in played.episode.answers] == ["on", "end"]
    assert played.episode.num_opening == 3
