"""The loop when something breaks: every stage, cancellation, nonsense, tools and graders."""

import asyncio
import json
import math
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter
from rooms import TASK, Room, forever, raising, run, says
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Env,
    Episode,
    Failed,
    Message,
    Observation,
    OutOfBudget,
    Score,
    Scored,
    Step,
    StopReason,
    Task,
    ToolCall,
    ToolEnv,
    ToolError,
    ToolMessage,
    ToolSpec,
    Ungraded,
    Workspace,
    call_tool,
    play,
    tool,
)
from palaestra.envs.episode import Timing
from palaestra.envs.graders import grade_episode


class Panic(BaseException):
    """As extensions in Rust raise, and the outcomes of pytest are."""


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


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
        (SystemExit(0), False),
        (Panic("index out of bounds"), False),
        (BaseExceptionGroup("two", [Panic(), Panic()]), False),
        (Mute(), True),
    ],
)
def test_what_breaks_in_the_environment_is_on_record(
    stage: str, error: BaseException, retryable: bool
) -> None:
    env = Room(**{stage: raising(error)})
    episode = run(env, says("end"))
    assert episode.stop is StopReason.FAILED and episode.failure is not None
    cause = "CodeExited" if isinstance(error, SystemExit) else type(error).__name__
    if isinstance(error, Panic | BaseExceptionGroup):
        cause = "CodePanicked"
    assert (episode.failure.stage, episode.failure.cause) == (stage, cause)
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


END = Step(Observation(), 0.0, True, False, {})


class Unsure:
    def __bool__(self) -> bool:
        raise TypeError("neither")


class Lying(Room):
    """Returns what it must not."""

    def __init__(self, *, first: Any = None, step: Any = END, left: Any = None) -> None:
        super().__init__()
        self.first, self.taken, self.left = first, step, left

    async def workspace(self) -> Workspace | None:
        return self.left  # type: ignore[no-any-return]  # that is the point

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return Observation() if self.first is None else self.first

    async def step(self, action: AssistantMessage) -> Step:
        return self.taken  # type: ignore[no-any-return]  # that is the point


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (Lying(first="hello"), "reset returned 'hello'; it must return Observation"),
        (Lying(step=(Observation(), None, True, False, {})), "the reward of step is None"),
        (Lying(step=(Observation(), math.nan, True, False, {})), "the reward of step is nan"),
        (Lying(step=(Observation(), 0.0, Unsure(), False, {})), "neither"),
        (Lying(left={"a.txt": b"x"}), "workspace returned {'a.txt': b'x'}; it must return Workspace"),
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

    @tool
    async def leave(self) -> str:
        sys.exit(0)

    @tool
    def leave_thread(self) -> str:
        sys.exit(0)

    @tool
    async def panic(self) -> str:
        raise Panic("index out of bounds")

    @tool
    def panic_thread(self) -> str:
        raise Panic("index out of bounds")

    @tool
    def interrupt_thread(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["leave", "leave_thread"])
def test_a_tool_that_exits_fails_its_episode_and_not_the_process(name: str) -> None:
    episode = run(Crashing(), says(call_tool(name), "done"))
    assert episode.failure is not None and not episode.failure.retryable
    assert (episode.failure.stage, episode.failure.cause) == ("step", "CodeExited")
    assert "sys.exit(0)" in episode.failure.message


@pytest.mark.parametrize("name", ["panic", "panic_thread", "interrupt_thread"])
def test_a_tool_that_raises_no_exception_fails_its_episode_and_not_the_run(name: str) -> None:
    episode = run(Crashing(), says(call_tool(name), "done"))
    assert episode.failure is not None and not episode.failure.retryable
    assert (episode.failure.stage, episode.failure.cause) == ("step", "CodePanicked")


def test_ctrl_c_in_the_main_thread_is_not_the_episodes() -> None:
    """The second one of an impatient user is raised wherever the loop is at work."""
    env = Room(step=lambda: signal.raise_signal(signal.SIGINT))
    loop = asyncio.new_event_loop()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(play(env, says("end"), TASK, seed=0))
    finally:
        signal.signal(signal.SIGINT, before)
        loop.close()


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
        (raising(SystemExit(0)), "crash: CodeExited: sys.exit(0) was called"),
        (raising(Panic("bug")), "crash: CodePanicked: Panic: bug; code in a run must raise an Exception"),
        (raising(Mute()), "crash: Mute: (no text: its __str__ raised ValueError)"),
        (lambda: Score(reward=math.nan), "crash: TypeError: Score.reward is nan; it must be a finite number"),
    ],
)
def test_a_grader_that_cannot_tell_gives_no_number(result: Callable[[], Any], reason: str) -> None:
    episode = Episode(task_id="t", seed=0, messages=(), stop=StopReason.DONE, timing=Timing())
    outcome = run_async(grade_episode(BadGrader(result), TASK, episode, timeout_s=0.02))
    assert isinstance(outcome, Ungraded) and outcome.reason.startswith(reason)
