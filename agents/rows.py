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
    if format.is_native:
        return [to_openai(_with_bad_calls(message)) for message in messages]
    texts: list[Message] = []
    after_result = False
    for message in messages:
        is_result = isinstance(message, ToolMessage)
        text = _as_text(message, format)
        if after_result and isinstance(text, UserMessage):  # many templates refuse two users in a row
            texts[-1] = UserMessage(f"{texts[-1].content}\n{text.content}")
        else:
            texts.append(text)
        after_result = is_result or (after_result and isinstance(text, UserMessage))
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
