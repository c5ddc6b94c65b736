"""An environment from rows and a reward: single turn, and with tools that Python functions do."""

import json
from pathlib import Path
from typing import Any

import pytest
from rewards import write
from support import run_async

from palaestra.envs import (
    Episode,
    Policy,
    ScriptedPolicy,
    StopReason,
    Task,
    ToolMessage,
    call_tool,
    play,
)
from palaestra.envs.dataset_env import DatasetEnv, dataset_env
from palaestra.envs.graders import Exact, Grader, load_reward
from palaestra.envs.graders.load import load_code
from palaestra.envs.row_tools import functions_of

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
    "required": ["a"],
}
ADD = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": SCHEMA}}
TOOLS = """
import asyncio

def add(a, b=1):
    return a + b

async def later(a, b=1):
    await asyncio.sleep(0)
    return {"sum": a + b}

def broken(a):
    from palaestra.envs import ToolBroken
    raise ToolBroken("the database is gone")

def leave(a):
    raise SystemExit(2)

async def later_leave(a):
    raise SystemExit(2)

def read(a):
    return open(f"/nope/{a}").read()

def glue(a):
    return a + "x"

def pick(a):
    return {1: "one"}[a]

def _hidden():
    return 0
"""


def row(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "2 + 2"}], "reference_answer": "4", **changes}


def make(
    folder: Path, *rows: dict[str, Any], tools: str = "", reward: Grader | None = None
) -> type[DatasetEnv]:
    data = write(folder, "".join(json.dumps(each) + "\n" for each in rows), "train.jsonl")
    functions = functions_of(load_code(str(write(folder, tools, "my_tools.py")))) if tools else {}
    return dataset_env(data, reward or Exact(), functions=functions)


def played(env: type[DatasetEnv], policy: Policy, task: Task | None = None) -> Episode:
    return run_async(play(env(), policy, task or env.tasks()[0], seed=0))


def named(name: str, schema: dict[str, Any] = SCHEMA) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def test_a_row_is_one_question_and_one_answer(tmp_path: Path) -> None:
    env = make(tmp_path, row(id="7", my_key="k"))
    (task,) = env.tasks()
    assert (task.id, task.reference, task.metadata) == ("7", "4", {"my_key": "k"})
    episode = played(env, ScriptedPolicy(["4", "never asked"]))
    assert episode.stop is StopReason.DONE and [said.content for said in episode.answers] == ["4"]
    assert env.grader == Exact() and env.reward_range == (0.0, 1.0)


def test_a_reference_inside_the_metadata_is_the_reference(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q"}]
    (task,) = make(tmp_path, {"messages": messages, "metadata": {"reference_answer": {"a": 1}}}).tasks()
    assert task.reference == {"a": 1}


def test_the_oracle_says_the_reference_where_it_is_one_word(tmp_path: Path) -> None:
    env = make(tmp_path, row(), row(reference_answer={"a": 1}), row(reference_answer=7))
    words, parts, number = env.tasks()
    assert played(env, env.oracle(words)).answers[-1].content == "4"
    assert played(env, env.oracle(number)).answers[-1].content == "7"
    with pytest.raises(NotImplementedError, match="text or a number"):
        env.oracle(parts)


def test_calls_are_done_by_the_functions_of_that_name(tmp_path: Path) -> None:
    env = make(tmp_path, row(tools=[ADD, named("later")]), tools=TOOLS)
    policy = ScriptedPolicy([call_tool("add", a=2, b=2), call_tool("later", a=1), "4"])
    episode = played(env, policy)
    assert episode.stop is StopReason.DONE and [tool.name for tool in episode.tools] == ["add", "later"]
    answers = [message.content for message in episode.messages if isinstance(message, ToolMessage)]
    assert answers == ["4", '{"sum":2}']


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (call_tool("add", a="2"), "'2' is not of type 'number'"),
        (call_tool("add"), "'a' is a required property"),
        (call_tool("add", a=1, c=2), "unexpected keyword argument 'c'"),
        (call_tool("pick", a=5), "KeyError: 5"),
        (call_tool("later", a=1), "there is no tool 'later'; the tools are: add, "),
        (call_tool("read", a=1), "FileNotFoundError"),
        (call_tool("glue", a=1), "TypeError"),
        (call_tool("leave", a=1), "CodeExited"),
        (call_tool("later_leave", a=1), "CodeExited"),
    ],
)
def test_a_wrong_call_is_answered(tmp_path: Path, call: Any, word: str) -> None:
    env = make(
        tmp_path, row(tools=[ADD, *map(named, ("pick", "read", "glue", "leave", "later_leave"))]), tools=TOOLS
    )
    episode = played(env, ScriptedPolicy([call, "4"]))
    (answer,) = [message for message in episode.messages if isinstance(message, ToolMessage)]
    assert answer.is_error and word in answer.content and episode.stop is StopReason.DONE


def test_a_tool_that_says_it_is_broken_fails_the_episode(tmp_path: Path) -> None:
    env = make(tmp_path, row(tools=[named("broken")]), tools=TOOLS)
    episode = played(env, ScriptedPolicy([call_tool("broken", a=1), "4"]))
    assert episode.failure is not None and episode.failure.retryable, episode
    assert "the database is gone" in episode.failure.message


def test_without_functions_a_call_is_the_answer(tmp_path: Path) -> None:
    code = "def score(messages): return messages[-1]['tool_calls'][0]['function']['name'] == 'add'"
    reward = load_reward(f"{write(tmp_path, code, 'r.py')}:score")
    env = make(tmp_path, row(tools=[ADD]), reward=reward)
    (task,) = env.tasks()
    episode = played(env, ScriptedPolicy([call_tool("add", a=1)]))
    assert episode.stop is StopReason.DONE and [tool.name for tool in episode.tools] == ["add"]
    assert run_async(reward.grade(task, episode, None)).reward == 1.0


@pytest.mark.parametrize(
    ("tools", "word"),
    [
        ([named("_hidden")], "no function of that name; it has: add, .*pick"),
        ([{"type": "function", "function": {"name": "add", "parameters": {"type": "thing"}}}], "'thing'"),
        ([named("add", {"$ref": "http://127.0.0.1:1/x"})], r"tool 'add': parameters.\$ref: .* is not in the"),
        ([named("add", {"$schema": 5})], r"tool 'add': parameters.\$schema: 5 is no draft"),
    ],
)
def test_a_tool_that_cannot_work_is_found_when_the_rows_are_read(
    tmp_path: Path, tools: list[Any], word: str
) -> None:
    env = make(tmp_path, row(id="7", tools=tools), tools=TOOLS)
    with pytest.raises(ValueError, match=f"task '7'.*{word}"):
        env.tasks()


def test_a_reward_that_does_not_fit_the_rows_is_found_when_they_are_read(tmp_path: Path) -> None:
    code = "def score(completion, gold): return 1.0"
    env = make(tmp_path, row(), reward=load_reward(f"{write(tmp_path, code, 'r.py')}:score"))
    with pytest.raises(ValueError, match="'gold'"):
        env.tasks()


def test_the_reference_does_not_reach_the_model(tmp_path: Path) -> None:
    env = make(tmp_path, row(reference_answer="c4n4ry", tools=[ADD], note="c4n4ry"), tools=TOOLS)
    episode = played(env, ScriptedPolicy(["4"]))
    assert "c4n4ry" not in repr(episode)
