"""Messages as rows of the OpenAI chat form, with tools as the chat template or as the format shows them."""

from collections.abc import Sequence
from dataclasses import replace

from ..envs import AssistantMessage, Message, SystemMessage, ToolMessage, ToolSpec, UserMessage
from ..envs.message import to_openai
from .formats import ToolFormat
from .template import Row


def to_rows(messages: Sequence[Message], tools: Sequence[ToolSpec], format: ToolFormat) -> list[Row]:
    """The conversation for a chat template or an endpoint.

    A format that is not native puts everything about tools into ordinary text: the tools into the first
    message, calls into what the assistant says, results into what the user says.
    """
    return _native(messages) if format.is_native else _ordinary(messages, tools, format)


def _native(messages: Sequence[Message]) -> list[Row]:
    """Results carry the id of their call. What answers no call (a bad one) is said by the user.

    Templates and endpoints refuse a result without a call, and a bad call must not end in a refusal.
    """
    rows: list[Row] = []
    open_calls: list[Row] = []
    for message in messages:
        row = to_openai(_with_bad_calls(message))
        if isinstance(message, AssistantMessage):
            open_calls = list(row.get("tool_calls", []))
        elif isinstance(message, ToolMessage):
            if open_calls:
                call = open_calls.pop(0)
                row = {"tool_call_id": call["id"], "name": call["function"]["name"], **row}
            elif rows and rows[-1]["role"] in ("tool", "user"):
                rows[-1]["content"] += f"\n{message.content}"
                continue
            else:
                row = {"role": "user", "content": message.content}
        rows.append(row)
    return rows


def _ordinary(messages: Sequence[Message], tools: Sequence[ToolSpec], format: ToolFormat) -> list[Row]:
    texts: list[Message] = []
    after_result = False
    for message in messages:
        text = _as_text(message, format)
        is_user = isinstance(text, UserMessage)
        if after_result and is_user:  # many templates refuse two users in a row
            texts[-1] = UserMessage(f"{texts[-1].content}\n{text.content}")
        else:
            texts.append(text)
        after_result = isinstance(message, ToolMessage) or (after_result and is_user)
    return [to_openai(message) for message in _described(texts, format.describe(tools))]


def _with_bad_calls(message: Message) -> Message:
    """What could not be parsed was still said."""
    if isinstance(message, AssistantMessage) and message.bad_calls:
        said = [message.content] if message.content else []
        return replace(message, content="\n".join([*said, *(call.text for call in message.bad_calls)]))
    return message


def _as_text(message: Message, format: ToolFormat) -> Message:
    if isinstance(message, AssistantMessage):
        whole = _with_bad_calls(replace(message, content=format.render(message)))
        return AssistantMessage(whole.content, message.reasoning)
    if isinstance(message, ToolMessage):
        return UserMessage(format.result(message.name, message.content))
    return message


def _described(messages: list[Message], description: str) -> list[Message]:
    """The tools are told by the system, or by the user where the system says nothing."""
    if not description:
        return messages
    if messages and isinstance(messages[0], SystemMessage):
        return [SystemMessage(f"{messages[0].content}\n\n{description}"), *messages[1:]]
    if messages and isinstance(messages[0], UserMessage):
        return [UserMessage(f"{description}\n\n{messages[0].content}"), *messages[1:]]
    return [SystemMessage(description), *messages]
