"""Tools: typed methods that the policy may call.

class Calculator(ToolEnv):
    @tool
    async def add(self, a: float, b: float) -> float:
        "Add two numbers."
        return a + b
"""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeVar, overload

from pydantic_core import PydanticSerializationError, to_json

from ..sandboxes import SandboxFileError
from .env import Env, Observation, Step, TaskT
from .errors import ToolError, no_exit, notes
from .message import AssistantMessage, BadToolCall, ToolCall, ToolMessage, ToolSpec, utf8
from .signature import Signature, WrongArguments
from .threads import in_thread

Method = TypeVar("Method", bound=Callable[..., Any])
_MARK = "_palaestra_tool"


class Offered(Protocol):
    """What `ToolEnv` offers: a tool method, or a tool that an adapter found elsewhere."""

    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, env: Env[Any], call: ToolCall) -> str:
        """The tool's answer as text. Raises `ToolError` for everything that is the policy's to mend."""
        ...


class AnyTool(ABC):
    """What the policy may call: its spec for the model, its time limit, and how an answer becomes text."""

    def __init__(self, spec: ToolSpec, timeout_s: float | None) -> None:
        self.spec, self.timeout_s = spec, timeout_s

    @abstractmethod
    def parse(self, call: ToolCall) -> dict[str, Any]:
        """The arguments of a call. Raises `ToolError` where they do not fit."""

    @abstractmethod
    async def call(self, env: Env[Any], arguments: dict[str, Any]) -> Any:
        """What the tool answers."""

    async def run(self, env: Env[Any], call: ToolCall) -> str:
        """The tool's answer as text. Raises `ToolError` for everything that is the policy's to mend."""
        arguments = self.parse(call)
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                with no_exit():
                    value = await self.call(env, arguments)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the tool's own: infrastructure
            told = f"{call.name} was stopped: it took over {self.timeout_s:g} s{notes(error)}"
            raise ToolError(told) from None
        except SandboxFileError as error:
            raise ToolError(str(error)) from error
        return self._text(value)

    def _text(self, value: Any) -> str:
        if isinstance(value, str):
            return utf8(value)
        try:
            return to_json(value).decode()
        except PydanticSerializationError as error:
            raise TypeError(
                f"tool {self.spec.name!r} returned {type(value).__name__}, which has no JSON form ({error}); "
                "return a str, a number, a list, a dict or a dataclass"
            ) from error


class Tool(AnyTool):
    """A tool method: its signature is the spec."""

    def __init__(self, function: Callable[..., Any], timeout_s: float | None) -> None:
        self.function = function
        self.signature = Signature.of(function)
        spec = ToolSpec(
            name=function.__name__,
            description=self.signature.description,
            parameters=self.signature.schema,
        )
        super().__init__(spec, timeout_s)

    def parse(self, call: ToolCall) -> dict[str, Any]:
        """In the annotated types."""
        try:
            return self.signature.parse(call.arguments)
        except WrongArguments as error:
            raise ToolError(f"wrong arguments: {error}; call it as {self.signature}") from None

    async def call(self, env: Env[Any], arguments: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self.function):
            return await self.function(env, **arguments)
        return await in_thread(lambda: self.function(env, **arguments))


@overload
def tool(function: Method, /) -> Method: ...
@overload
def tool(*, timeout_s: float | None) -> Callable[[Method], Method]: ...
def tool(function: Any = None, /, *, timeout_s: float | None = 60.0) -> Any:
    """Offer a method of a `ToolEnv` to the policy; the annotations and the docstring are its schema.

    `timeout_s` limits one call; None is no limit. A plain `def` runs in a thread, which a timeout leaves
    behind: code that can hang belongs into an `async def` or a sandbox.
    """

    def mark(method: Method) -> Method:
        setattr(method, _MARK, Tool(method, timeout_s))
        return method

    return mark if function is None else mark(function)


class ToolEnv(Env[TaskT]):
    """An environment whose actions are tool calls.

    A message with calls is answered with tool messages; one without is the final answer and ends the
    episode. Wrong calls are answered too, with `is_error`. The steps give no reward: the grader decides.
    """

    max_output_chars: ClassVar[int] = 8000
    """A tool's answer over this keeps its head and its tail."""
    offered: ClassVar[MappingProxyType[str, Tool]] = MappingProxyType({})
    """The tools by name, gathered when the class is made."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        members = {
            name: inspect.getattr_static(cls, name) for base in cls.__mro__[::-1] for name in vars(base)
        }
        found = {name: getattr(member, _MARK, None) for name, member in members.items()}
        cls.offered = MappingProxyType({name: item for name, item in found.items() if item is not None})

    def on_offer(self) -> Mapping[str, Offered]:
        """The tools of this episode by name: those of the class, and what an adapter found elsewhere."""
        return self.offered

    async def reset(self, task: TaskT, *, seed: int) -> Observation:
        """Show the task's messages and offer the tools."""
        return Observation(
            messages=task.messages, tools=tuple(item.spec for item in self.on_offer().values())
        )

    async def step(self, action: AssistantMessage) -> Step:
        """Run all calls of a message at the same time; the answers come in the order of the calls."""
        if not action.tool_calls and not action.bad_calls:
            return Step(Observation(), 0.0, True, False, {})
        # return_exceptions: no call outlives the step, also when another one crashes.
        answers = await asyncio.gather(*map(self._answer, action.tool_calls), return_exceptions=True)
        messages = [*map(_raised, answers), *map(_reject, action.bad_calls)]
        return Step(Observation(messages=tuple(messages)), 0.0, False, False, {})

    async def _answer(self, call: ToolCall) -> ToolMessage:
        tools = self.on_offer()
        try:
            if call.name not in tools:
                raise ToolError(f"there is no tool {call.name!r}; the tools are: {', '.join(tools)}")
            content, is_error = await tools[call.name].run(self, call), False
        except ToolError as error:
            content, is_error = str(error), True
        content = cut(content, self.max_output_chars)
        return ToolMessage(content, call_id=call.id, name=call.name, is_error=is_error)


def _raised(answer: ToolMessage | BaseException) -> ToolMessage:
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _reject(call: BadToolCall) -> ToolMessage:
    return ToolMessage(f"this tool call could not be read: {call.error}; write it again", is_error=True)


def cut(text: str, limit: int) -> str:
    """`text` with its middle left out when it is longer than `limit` characters.

    >>> cut("0123456789", 4)
    '01\\n[6 characters left out]\\n89'
    """
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    return f"{text[:head]}\n[{len(text) - limit} characters left out]\n{text[len(text) - limit + head :]}"
