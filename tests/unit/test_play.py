"""The loop: every way to stop, every stage that can break, cancellation, and who pays for the time."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Budget,
    Env,
    Episode,
    Failed,
    Message,
    Observation,
    OutOfBudget,
    Policy,
    Score,
    Scored,
    ScriptedPolicy,
    Step,
    StopReason,
    SystemMessage,
    Task,
    ToolCall,
    ToolEnv,
    ToolError,
    ToolMessage,
    ToolSpec,
    Ungraded,
    UserMessage,
    Workspace,
    call_tool,
    play,
    tool,
)
from palaestra.envs.episode import Timing
from palaestra.envs.graders import grade_episode
from palaestra.envs.message import Usage

TASK = Task(
    id="t",
    messages=(SystemMessage("be brief"), UserMessage("go")),
    reference="the-reference",
    private={"key": "the-private-value"},
    metadata={"note": "the-metadata"},
)


class Room(Env[Task]):
    """Goes on until it hears "end" or "cut"; does what `on` says at each stage."""

    budget = Budget()

    def __init__(self, **on: Callable[[], Any]) -> None:
        self.on = on
        self.num_closed = 0

    async def _do(self, stage: str) -> None:
        if stage in self.on:
            result = self.on[stage]()
            if asyncio.iscoroutine(result):
                await result

    async def reset(self, task: Task, *, seed: int) -> Observation:
        await self._do("reset")
        return await super().reset(task, seed=seed)

    async def step(self, action: AssistantMessage) -> Step:
        await self._do("step")
        heard = Observation(messages=(UserMessage(f"heard {action.content}"),))
        return Step(heard, 0.25, action.content == "end", action.content == "cut", {})

    async def workspace(self) -> Workspace | None:
        await self._do("workspace")
        return Workspace(files=(("a", b"\xff"),))

    def facts(self) -> Mapping[str, str]:
        if "facts" in self.on:
            self.on["facts"]()
        return {"tier": "none"}

    async def close(self) -> None:
        self.num_closed += 1
        await self._do("close")


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


async def forever() -> None:
    await asyncio.Event().wait()


def says(*lines: str | AssistantMessage) -> Policy:
    return ScriptedPolicy(lines)


def run(env: Env[Any], policy: Policy, **limits: Any) -> Episode:
    return run_async(play(env, policy, TASK, seed=7, budget=Budget(**limits)))


def spending(prompt: int, sampled: int) -> AssistantMessage:
    return AssistantMessage("more", usage=Usage(prompt_tokens=prompt, sampled_tokens=sampled))


async def out_of_context(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
    raise OutOfBudget(StopReason.CONTEXT)


async def never_answers(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
    await forever()
    raise AssertionError


def test_an_episode_records_what_was_said_and_earned() -> None:
    env, seen = Room(), list[Message]()
    episode = run_async(play(env, says("one", "end"), TASK, seed=7, on_message=seen.append))
    assert [message.content for message in episode.messages] == [
        "be brief",
        "go",
        "one",
        "heard one",
        "end",
        "heard end",
    ]
    assert tuple(seen) == episode.messages
    assert (episode.task_id, episode.seed, episode.stop, episode.num_turns) == ("t", 7, StopReason.DONE, 2)
    assert episode.rewards == (0.25, 0.25)
    assert episode.workspace == Workspace(files=(("a", b"\xff"),))
    assert episode.env_info == (("tier", "none"),)
    assert episode.failure is None and env.num_closed == 1


@pytest.mark.parametrize(
    ("policy", "limits", "stop", "num_turns"),
    [
        (says("end"), {}, StopReason.DONE, 1),
        (says("on", "cut"), {}, StopReason.TRUNCATED, 2),
        (says(), {"max_turns": 3}, StopReason.MAX_TURNS, 3),
        (says(), {"max_turns": 0}, StopReason.MAX_TURNS, 0),
        (says(spending(5, 4), spending(9, 6), "end"), {"max_tokens": 10}, StopReason.MAX_TOKENS, 2),
        (says(spending(5, 4), spending(9, 6), "end"), {"max_context": 15}, StopReason.CONTEXT, 2),
        (says(spending(5, 4), spending(9, 5), "end"), {"max_context": 15}, StopReason.DONE, 3),
        (out_of_context, {}, StopReason.CONTEXT, 0),
    ],
)
def test_every_limit_has_a_stop_reason_of_its_own(
    policy: Policy, limits: dict[str, Any], stop: StopReason, num_turns: int
) -> None:
    env = Room()
    episode = run(env, policy, **limits)
    assert (episode.stop, episode.num_turns, len(episode.rewards)) == (stop, num_turns, num_turns)
    assert episode.workspace is not None and env.num_closed == 1


def test_the_environments_own_budget_holds_where_the_caller_sets_none() -> None:
    class Short(Room):
        budget = Budget(max_turns=2)

    assert run(Short(), says()).num_turns == 2
    assert run(Short(), says(), max_turns=3).num_turns == 3


def test_a_hanging_step_is_cut_when_the_env_seconds_are_used_up() -> None:
    env = Room(step=forever)
    episode = run(env, says("on"), env_s=0.02)
    assert episode.stop is StopReason.ENV_SECONDS and episode.rewards == (0.0,)
    assert episode.workspace is not None and env.num_closed == 1


def test_waiting_for_the_model_is_not_charged_to_env_seconds() -> None:
    async def slow(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        await asyncio.sleep(0.2)
        return AssistantMessage("end")

    episode = run(Room(), slow, env_s=0.15)
    assert episode.stop is StopReason.DONE
    assert episode.timing.policy_s > 0.15 > episode.timing.env_s


def test_a_wall_limit_in_the_environment_is_the_episodes_own() -> None:
    episode = run(Room(step=forever), says("on"), wall_s=0.02)
    assert episode.stop is StopReason.WALL and episode.failure is None
    assert episode.workspace is not None


def test_a_wall_limit_under_a_slow_policy_is_a_failure_to_retry() -> None:
    env = Room()
    episode = run(env, never_answers, wall_s=0.02)
    assert episode.failure is not None
    assert (episode.failure.stage, episode.failure.cause, episode.failure.retryable) == (
        "policy",
        "wall",
        True,
    )
    assert "wall_s=0.02 ran out" in episode.failure.message and env.num_closed == 1


def test_a_wall_limit_in_reset_is_a_failure_since_no_policy_was_there() -> None:
    episode = run(Room(reset=forever), says(), wall_s=0.02)
    assert episode.failure is not None and episode.failure.stage == "reset"


def test_slow_steps_do_not_turn_a_wall_limit_under_the_policy_into_a_discarded_episode() -> None:
    async def nap() -> None:
        await asyncio.sleep(0.08)

    async def then_silence(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        if len(messages) > 2:
            await forever()
        return AssistantMessage("on")

    episode = run(Room(step=nap), then_silence, wall_s=0.1)
    assert episode.stop is StopReason.WALL


@pytest.mark.parametrize("stage", ["reset", "step", "workspace"])
@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (ConnectionError("weather"), True),
        (TimeoutError("weather"), True),
        (KeyError("a bug"), False),
        (NotImplementedError("a bug"), False),
        (asyncio.CancelledError(), True),  # leaked from a task inside: nobody cancelled the episode
        (OutOfBudget(StopReason.CONTEXT), True),  # of a policy inside, such as a user simulator
    ],
)
def test_what_breaks_in_the_environment_is_on_record(
    stage: str, error: BaseException, retryable: bool
) -> None:
    env = Room(**{stage: raising(error)})
    episode = run(env, says("end"))
    assert episode.stop is StopReason.FAILED and episode.failure is not None
    assert (episode.failure.stage, episode.failure.cause) == (stage, type(error).__name__)
    assert episode.failure.retryable is retryable
    assert env.num_closed == 1


def test_what_breaks_in_the_policy_is_on_record() -> None:
    async def down(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        raise ConnectionError("engine down")

    episode = run(Room(), down)
    assert episode.failure == Failed(
        stage="policy", cause="ConnectionError", retryable=True, message="engine down"
    )


@pytest.mark.parametrize("stage", ["close", "facts"])
def test_a_close_that_breaks_is_on_record_and_the_grade_stands(stage: str) -> None:
    env = Room(**{stage: raising(OSError("stuck"))})
    episode = run(env, says("end"))
    assert episode.stop is StopReason.DONE and env.num_closed == 1
    assert dict(episode.env_info)["close_error"] == "close: OSError: stuck"


@pytest.mark.parametrize(("stage", "stop"), [("close", StopReason.DONE), ("workspace", StopReason.FAILED)])
def test_a_close_that_hangs_is_given_up(
    stage: str, stop: StopReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[play.__module__], "CLOSE_S", 0.02)
    env = Room(**{stage: forever})
    episode = run(env, says("end"))
    assert episode.stop is stop and env.num_closed == 1
    assert "TimeoutError" in f"{episode.failure} {dict(episode.env_info)}"


class Lying(Room):
    """Returns what it must not."""

    def __init__(self, *, first: Any = None, step: Any = None) -> None:
        super().__init__()
        self.first, self.taken = first, step

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return Observation() if self.first is None else self.first

    async def step(self, action: AssistantMessage) -> Step:
        return self.taken  # type: ignore[no-any-return]  # that is the point


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (Lying(first="hello"), "reset returned 'hello'; it must return Observation"),
        (Lying(step=(Observation(), None, True, False, {})), "float() argument"),
        (Lying(step=("hello", 1.0, True, False, {})), "step returned 'hello'; it must return Observation"),
        (Lying(step=None), "cannot unpack"),
    ],
)
def test_an_environment_that_returns_nonsense_is_told_so(env: Env[Any], said: str) -> None:
    episode = run(env, says("end"))
    assert episode.failure is not None and not episode.failure.retryable
    assert said in episode.failure.message


def test_a_policy_that_returns_nonsense_is_told_so() -> None:
    async def text(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Any:
        return "42"

    episode = run(Room(), text)
    assert episode.failure is not None
    assert episode.failure.message == "the policy returned '42'; it must return AssistantMessage"


@pytest.mark.parametrize("stage", ["reset", "step", "workspace", "policy"])
def test_cancellation_closes_once_and_is_raised(stage: str) -> None:
    async def main() -> Room:
        waiting = asyncio.Event()

        async def hang() -> None:
            waiting.set()
            await forever()

        async def policy(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
            if stage == "policy":
                await hang()
            return AssistantMessage("end")

        env = Room(**{stage: hang})
        episode = asyncio.create_task(play(env, policy, TASK, seed=0))
        await waiting.wait()
        episode.cancel()
        with pytest.raises(asyncio.CancelledError):
            await episode
        return env

    assert run_async(main()).num_closed == 1


def test_an_error_of_the_watcher_is_not_the_episodes() -> None:
    env = Room()
    with pytest.raises(TimeoutError, match="watcher"):
        run_async(
            play(env, says("end"), TASK, seed=0, on_message=lambda _: raising(TimeoutError("watcher"))())
        )
    assert env.num_closed == 1


def test_only_the_opening_reaches_the_policy() -> None:
    seen: list[object] = []

    async def curious(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        seen.extend([*messages, *tools])
        return AssistantMessage("end")

    run(Room(), curious)
    for secret in ("the-reference", "the-private-value", "the-metadata"):
        assert secret not in repr(seen)


class Decoding(ToolEnv[Task]):
    """Reads JSON that the policy wrote: a way for halves of surrogate pairs through every other gate."""

    last = ""

    @tool
    async def decode(self, text: str) -> str:
        self.last = json.loads(text)
        raise ToolError(self.last)

    def facts(self) -> Mapping[str, str]:
        return {"last": self.last}


class Echo:
    """A grader whose evidence, or whose error, is what the policy wrote, decoded."""

    def __init__(self, is_broken: bool) -> None:
        self.is_broken = is_broken

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        decoded = json.loads('"\\ud800"')
        if self.is_broken:
            raise ValueError(decoded)
        return Score(reward=0.5, evidence=decoded)


def test_what_has_no_utf8_form_cannot_break_the_record() -> None:
    odd = "\ud800"
    bad = ToolCall(id="1", name="decode", arguments={"text": odd})
    no_json = ToolCall(id="2", name="decode", arguments={"text": object()})
    lines = AssistantMessage(odd, odd, (bad, no_json)), call_tool("decode", text='"\\ud800"')
    episode = run(Decoding(), says(*lines))
    first = episode.messages[2]
    assert isinstance(first, AssistantMessage)
    assert (first.content, first.reasoning, first.tool_calls, len(first.bad_calls)) == ("?", "?", (), 2)
    assert "UnicodeEncodeError" in first.bad_calls[0].error and "object" in first.bad_calls[1].error
    assert [message.content for message in episode.messages[-2:]] == ["?", ""]
    assert episode.env_info == (("last", "?"),)
    scored = run_async(grade_episode(Echo(False), TASK, episode))
    ungraded = run_async(grade_episode(Echo(True), TASK, episode))
    assert isinstance(scored, Scored) and scored.evidence == "?"
    assert isinstance(ungraded, Ungraded) and ungraded.reason == "crash: ValueError: ?"
    for kind, value in ((Episode, episode), (Scored, scored), (Ungraded, ungraded)):
        assert TypeAdapter[Any](kind).dump_json(value)


class Crashing(ToolEnv[Task]):
    @tool
    async def crash(self) -> str:
        raise RuntimeError("bug")

    @tool(timeout_s=0.01)
    async def hang(self) -> str:
        await forever()
        return ""


def test_a_tool_that_crashes_fails_the_episode() -> None:
    episode = run(Crashing(), says(call_tool("crash"), "done"))
    assert episode.failure is not None
    assert (episode.failure.stage, episode.failure.cause) == ("step", "RuntimeError")


def test_a_tool_that_hangs_is_an_observation() -> None:
    episode = run(Crashing(), says(call_tool("hang"), "done"))
    assert episode.stop is StopReason.DONE
    answer = episode.messages[-2]
    assert isinstance(answer, ToolMessage) and answer.is_error and "took over 0.01 s" in answer.content


def test_failed_episodes_have_no_grade_and_others_the_sum_of_their_steps() -> None:
    failed = run(Room(step=raising(OSError("x"))), says("end"))
    assert run_async(grade_episode(None, TASK, failed)) == failed.failure
    outcome = run_async(grade_episode(None, TASK, run(Room(), says("on", "end"))))
    assert outcome.kind == "scored" and outcome.reward == 0.5


class BadGrader:
    def __init__(self, result: Callable[[], Any]) -> None:
        self.result = result

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Any:
        result = self.result()
        return await result if asyncio.iscoroutine(result) else result


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (forever, "timeout: the grader took over 0.02 s"),
        (raising(TimeoutError("a judge's server")), "crash: TimeoutError: a judge's server"),
        (raising(asyncio.CancelledError()), "crash: CancelledError"),
        (lambda: 1.0, "crash: TypeError: the grader returned 1.0; it must return Score"),
    ],
)
def test_a_grader_that_cannot_tell_gives_no_number(result: Callable[[], Any], reason: str) -> None:
    episode = Episode(task_id="t", seed=0, messages=(), stop=StopReason.DONE, timing=Timing())
    outcome = run_async(grade_episode(BadGrader(result), TASK, episode, timeout_s=0.02))
    assert isinstance(outcome, Ungraded) and outcome.reason.startswith(reason)
