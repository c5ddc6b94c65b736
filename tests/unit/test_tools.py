"""Tools: schemas, wrong calls, errors, time limits, order and size of the answers."""

import asyncio
import threading
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from support import run_async

from palaestra.envs import AssistantMessage, Step, Task, ToolCall, ToolEnv, ToolError, ToolMessage, tool
from palaestra.envs.message import BadToolCall
from palaestra.envs.signature import split_docstring
from palaestra.envs.tools import cut
from palaestra.sandboxes import SandboxFileError

TASK = Task(id="t")


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Workshop(ToolEnv[Task]):
    max_output_chars: ClassVar[int] = 1000

    def __init__(self) -> None:
        self.released = asyncio.Event()

    @tool
    async def add(self, a: float, b: float = 1.0) -> float:
        """Add two numbers.

        Args:
            a: the first,
                of two
            b (float): the second

        Returns:
            their sum
        """
        return a + b

    @tool
    def thread_name(self) -> str:
        """Where plain tools run."""
        return threading.current_thread().name

    @tool
    async def pick(
        self, colour: Literal["red", "blue"], at: Annotated[Point, Field(description="where")]
    ) -> Point:
        return at

    @tool
    async def fail(self, how: str) -> str:
        errors = {
            "tool": ToolError("no such page"),
            "file": SandboxFileError("a.txt is missing"),
            "time": TimeoutError("a server of ours"),
            "crash": RuntimeError("a bug"),
        }
        raise errors[how]

    @tool
    async def wait_for_release(self) -> str:
        await self.released.wait()
        return "released"

    @tool
    async def release(self) -> list[int]:
        self.released.set()
        return [1, 2]

    @tool(timeout_s=0.02)
    async def hang(self) -> str:
        await asyncio.Event().wait()
        return "never"

    @tool(timeout_s=0.02)
    def hang_in_a_thread(self) -> str:
        threading.Event().wait()
        return "never"

    @tool
    async def talk(self, length: int) -> str:
        return "x" * length

    @tool
    async def opaque(self) -> object:
        return object()


def step(*calls: ToolCall | BadToolCall) -> Step:
    good = tuple(call for call in calls if isinstance(call, ToolCall))
    bad = tuple(call for call in calls if isinstance(call, BadToolCall))

    async def main() -> Step:
        return await Workshop().step(AssistantMessage(tool_calls=good, bad_calls=bad))

    return run_async(main())


def answers(*calls: ToolCall | BadToolCall) -> list[ToolMessage]:
    messages = step(*calls).observation.messages
    return [message for message in messages if isinstance(message, ToolMessage)]


def call(name: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(id=f"id-{name}", name=name, arguments=arguments)


def test_the_schema_comes_from_annotations_and_docstring() -> None:
    spec = Workshop.offered["add"].spec
    assert spec.description == "Add two numbers."
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "a": {"description": "the first, of two", "type": "number"},
            "b": {"description": "the second", "type": "number"},
        },
        "required": ["a"],
    }
    picked = Workshop.offered["pick"].spec.parameters
    assert picked["properties"]["colour"] == {"enum": ["red", "blue"], "type": "string"}
    assert "where" in str(picked["properties"]["at"])
    assert str(Workshop.offered["pick"].signature) == "pick(colour: 'red' | 'blue', at: object)"


def test_reset_offers_the_tools_in_the_order_of_the_class() -> None:
    observation = run_async(Workshop().reset(TASK, seed=0))
    assert [spec.name for spec in observation.tools][:3] == ["add", "thread_name", "pick"]


def test_a_subclass_inherits_replaces_and_withdraws_tools() -> None:
    class Small(Workshop):
        @tool
        async def add(self, a: float, b: float = 1.0) -> float:
            """Another add."""
            return a

        release = None  # type: ignore[assignment]  # withdrawn

    assert Small.offered["add"].spec.description == "Another add."
    assert "release" not in Small.offered and "release" in Workshop.offered
    assert next(iter(Small.offered)) == "add"


def test_an_argument_without_annotation_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"tool 'f': argument \*words: str needs a name and an annotation"):

        @tool
        def f(self: object, *words: str) -> None: ...


def test_arguments_arrive_in_their_types_and_results_leave_as_json() -> None:
    (added, picked) = answers(call("add", a="2"), call("pick", colour="red", at={"x": 1, "y": 2}))
    assert added == ToolMessage("3.0", call_id="id-add", name="add")
    assert picked.content == '{"x":1,"y":2}'


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (call("add", b=1), "wrong arguments: a: Field required; call it as add(a: number, b?: number)"),
        (call("add", a=1, z=1), "z: Extra inputs are not permitted"),
        (call("add", a="one"), "a: Input should be a valid number"),
        (call("add", a="nan"), "a: Input should be a finite number"),
        (call("add", a=10**400), "a: Input should be a finite number"),
        (call("pick", colour="green", at={"x": 1}), "at.y: Field required"),
        (call("add", a="\ud800"), "half of a surrogate pair"),
        (call("sub", a=1), "there is no tool 'sub'; the tools are: add, thread_name"),
        (call("_answer"), "there is no tool '_answer'"),
        (BadToolCall(text="{", error="unclosed brace"), "could not be read: unclosed brace"),
        (call("fail", how="tool"), "no such page"),
        (call("fail", how="file"), "a.txt is missing"),
        (call("hang"), "hang was stopped: it took over 0.02 s"),
        (call("hang_in_a_thread"), "hang_in_a_thread was stopped: it took over 0.02 s"),
    ],
)
def test_what_the_policy_can_mend_is_an_answer_marked_as_error(
    wrong: ToolCall | BadToolCall, said: str
) -> None:
    taken = step(wrong)
    (answer,) = taken.observation.messages
    assert isinstance(answer, ToolMessage) and answer.is_error
    assert said in answer.content
    assert taken[1:] == (0.0, False, False, {})


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (call("fail", how="crash"), RuntimeError),
        (call("fail", how="time"), TimeoutError),
        (call("opaque"), TypeError),
    ],
)
def test_what_the_policy_cannot_mend_is_raised(broken: ToolCall, error: type[Exception]) -> None:
    with pytest.raises(error):
        step(broken)


def test_parallel_calls_run_together_and_are_answered_in_order() -> None:
    # In sequence the first would wait for ever.
    said = answers(
        call("wait_for_release"), call("release"), BadToolCall(text="", error="?"), call("add", a=1)
    )
    assert [answer.content for answer in said[:3]] == ["released", "[1,2]", "2.0"]
    assert said[3].is_error


def test_a_plain_tool_runs_beside_the_event_loop() -> None:
    assert answers(call("thread_name"))[0].content != threading.current_thread().name


def test_a_message_without_calls_ends_the_episode() -> None:
    async def main() -> Step:
        return await Workshop().step(AssistantMessage("42"))

    assert run_async(main())[1:] == (0.0, True, False, {})


def test_long_answers_keep_head_and_tail() -> None:
    assert answers(call("talk", length=1234))[0].content == (
        f"{'x' * 500}\n[234 characters left out]\n{'x' * 500}"
    )


@given(st.text(max_size=40), st.integers(0, 40))
def test_cut_accounts_for_every_character(text: str, limit: int) -> None:
    kept = cut(text, limit)
    if len(text) <= limit:
        assert kept == text
    else:
        marker = f"\n[{len(text) - limit} characters left out]\n"
        head = (limit + 1) // 2
        assert kept == text[:head] + marker + text[len(text) - (limit - head) :]
        assert len(kept) - len(marker) == limit


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none(), max_size=3))
def test_no_arguments_of_a_policy_can_crash_the_parser(arguments: dict[str, Any]) -> None:
    messages = answers(ToolCall(id="", name="add", arguments=arguments))
    assert len(messages) == 1


def test_a_plain_docstring_is_all_description() -> None:
    assert split_docstring("Look it up.\n\nNote that: this stays.") == (
        "Look it up.\n\nNote that: this stays.",
        {},
    )
