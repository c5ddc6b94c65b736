"""A row of a dataset, as the services for reinforcement fine-tuning, verl and verifiers write it.

OpenAI chat    messages, tools, reference_answer, id
verl           prompt, reward_model.ground_truth, data_source, extra_info
multi-turn     prompt (a text, or messages), answer

Every other field is metadata. `messages`, `tools` and `reward_model` may be JSON text, as in CSV.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json
from pydantic_core import to_json

Role = Literal["system", "developer", "user", "assistant", "tool"]
Object = Annotated[dict[str, Any] | Json[dict[str, Any]], Field(union_mode="left_to_right")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Strict):
    """An entry of a `content` list; Bedrock leaves the type out."""

    type: Literal["text"] = "text"
    text: str


class RowFunction(_Strict):
    name: str
    arguments: Object = Field(default_factory=dict)
    """As JSON text, or as the object itself."""


class RowCall(_Strict):
    id: str
    type: Literal["function"] = "function"
    function: RowFunction


class RowMessage(_Strict):
    role: Role
    content: str | list[TextPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[RowCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content in one piece."""
        content = self.content
        if isinstance(content, str):
            return content
        return "".join(part.text for part in content or ())


class ToolFunction(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)  # "strict" and its like tell an endpoint something

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class RowTool(_Strict):
    type: Literal["function"] = "function"
    function: ToolFunction


Messages = Annotated[list[RowMessage] | Json[list[RowMessage]], Field(union_mode="left_to_right")]
Tools = Annotated[list[RowTool] | Json[list[RowTool]], Field(union_mode="left_to_right")]


class Row(BaseModel):
    """One row; null is as good as absent.

    >>> row = Row.model_validate({"prompt": "1 + 1 = ?", "reward_model": {"ground_truth": "2"}, "level": 1})
    >>> row.conversation[0].text, row.reference, row.metadata
    ('1 + 1 = ?', '2', {'level': 1})
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str | int | None = None
    messages: Messages | None = None
    prompt: str | list[RowMessage] | None = None
    tools: Tools | None = None
    reference_answer: Any = None
    reward_model: Object | None = None
    answer: Any = None

    @property
    def conversation(self) -> Sequence[RowMessage]:
        """`messages`, or else `prompt`."""
        if self.messages is not None:
            return self.messages
        if isinstance(self.prompt, str):
            return _user_says(self.prompt)
        return self.prompt or ()

    @cached_property
    def tools_json(self) -> bytes:
        """The tools in one piece, for those who compare them; nothing where there are none."""
        return to_json(self.tools) if self.tools else b""

    @property
    def reference(self) -> Any:
        """`reference_answer`, or else `reward_model.ground_truth`, or else `answer`."""
        if self.reference_answer is not None:
            return self.reference_answer
        truth = None if self.reward_model is None else self.reward_model.get("ground_truth")
        return self.answer if truth is None else truth

    @property
    def metadata(self) -> dict[str, Any]:
        """Everything that is neither the conversation, the tools, the id nor the reference."""
        rest = dict(self.model_extra or {})
        if self.messages is not None and self.prompt is not None:
            rest["prompt"] = self.prompt if isinstance(self.prompt, str) else _plain(self.prompt)
        truth = (self.reward_model or {}).get("ground_truth")
        if self.reward_model is not None:
            is_reference = self.reference_answer is None
            kept = {k: v for k, v in self.reward_model.items() if k != "ground_truth" or not is_reference}
            rest |= {"reward_model": kept} if kept else {}
        if self.answer is not None and (self.reference_answer is not None or truth is not None):
            rest["answer"] = self.answer
        return {name: value for name, value in rest.items() if value is not None}


@lru_cache(maxsize=1)  # a row is asked for its conversation again and again
def _user_says(prompt: str) -> tuple[RowMessage, ...]:
    return (RowMessage(role="user", content=prompt),)


def _plain(messages: Sequence[RowMessage]) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in messages]
