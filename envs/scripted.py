"""Policies without a model."""

from collections.abc import Callable, Sequence

from .message import AssistantMessage, Message, ToolCall, ToolSpec

Line = AssistantMessage | str | Callable[[Sequence[Message]], AssistantMessage | str]


class ScriptedPolicy:
    """Says its lines in order, then "" for ever; a line may be a function of the conversation so far.

    >>> ScriptedPolicy([call_tool("python", code="print(6 * 7)"), "Answer: 42"])
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = iter(tuple(lines))

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        line = next(self._lines, "")
        said = line(messages) if callable(line) else line
        return AssistantMessage(said) if isinstance(said, str) else said


def call_tool(name: str, /, **arguments: object) -> AssistantMessage:
    """A message with one tool call.

    >>> call_tool("add", a=1, b=2).tool_calls[0].name
    'add'
    """
    return AssistantMessage(tool_calls=(ToolCall(id="call-0", name=name, arguments=arguments),))
