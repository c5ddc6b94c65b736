"""Messages to token ids and back. What was sampled is never encoded again.

opening   all messages, generation prompt                    -> the first prompt
delta     end of the answer, new messages, generation prompt -> what to append behind the sampled ids
again     all messages once more, for history="template"     -> a whole prompt, which may fork
parse     sampled ids                                        -> text, reasoning, tool calls
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from tokenizers import Tokenizer

from ..envs import AssistantMessage, Message, ToolSpec
from .encoder import Encoder
from .formats import ToolFormat, tool_format
from .pretrained import read_pretrained
from .rows import to_rows
from .suffix import SuffixFinder
from .template import ChatTemplate, Row

History = Literal["append", "template"]
"""append: never render again what was rendered. template: render again, and fork where the text changed."""


class Renderer:
    """One model's chat format: its tokenizer, its template, and how tool calls are written.

    >>> renderer = Renderer.from_pretrained("models/Qwen2.5-0.5B-Instruct", format="hermes")  # doctest: +SKIP
    >>> prompt_ids = renderer.opening([UserMessage("hi")], ())                                # doctest: +SKIP
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: str,
        *,
        format: ToolFormat | str = "hermes",
        special_tokens: Mapping[str, str] | None = None,
        eos_ids: Iterable[int] = (),
        history: History = "append",
        describe_tools: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
        think_tags: tuple[str, str] = ("<think>", "</think>"),
    ) -> None:
        special = dict(special_tokens or {})
        self.tokenizer = tokenizer
        self.format = tool_format(format) if isinstance(format, str) else format
        self.history: History = history
        self._describe_tools = describe_tools  # False: for a model that was trained on one set of tools
        self._think_open, self._think_close = think_tags
        self._encoder = Encoder(tokenizer, chat_template)
        self._encode_opening = lru_cache(maxsize=64)(self._encoder.encode)  # a group opens alike
        self._template = ChatTemplate(chat_template, special_tokens=special, kwargs=template_kwargs)
        self._suffixes = SuffixFinder(self._template)
        self._tool_rows: tuple[Sequence[ToolSpec], list[Row]] = ((), [])
        self.opens_thinking = self._suffixes.generation_prompt.rstrip().endswith(self._think_open)
        """The generation prompt begins a thought, so an answer starts in the middle of one."""
        eos_token = special.get("eos_token", "")
        self.turn_end = self._encoder.turn_end(self._suffixes.plain_closing, eos_token)
        """The special token that ends an assistant's turn; "" in templates without one."""
        self.stop_ids = self._encoder.stop_ids(eos_ids, (eos_token, self.turn_end))
        """Sampling ends with the first of these."""

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        format: ToolFormat | str = "hermes",
        history: History = "append",
        describe_tools: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> "Renderer":
        """Read the tokenizer, its special tokens, the chat template and the stop tokens of a model folder."""
        found = read_pretrained(Path(folder))
        return cls(
            found.tokenizer,
            found.chat_template,
            format=format,
            special_tokens=found.special_tokens,
            eos_ids=found.eos_ids,
            history=history,
            describe_tools=describe_tools,
            template_kwargs=template_kwargs,
        )

    def opening(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[int, ...]:
        """The whole conversation and the generation prompt. Raises `TemplateRefuses`."""
        return self._encode_opening(self._whole(messages, tools))

    def delta(
        self,
        before: Sequence[Message],
        answer_ids: Sequence[int],
        answer: AssistantMessage,
        new: Sequence[Message],
        tools: Sequence[ToolSpec],
    ) -> tuple[int, ...]:
        """What to append behind `answer_ids` for `new` to be heard and answered. Raises `TemplateRefuses`.

        An answer that was cut by its length is closed first; one that ended with the turn's own end token
        does not get a second one.
        """
        answer_row, *new_rows = to_rows((answer, *new), (), self.format)
        before_rows = to_rows(before, self._shown(tools), self.format)
        suffix = self._suffixes.find(before_rows, answer_row, self._guarded(new_rows), self._tools(tools))
        last = answer_ids[-1] if answer_ids else -1
        if last not in self.stop_ids:
            return self._encoder.encode(suffix.cut + suffix.rest)
        return self._encoder.encode_behind(last, suffix.closing, suffix.cut, suffix.rest)

    def again(
        self, held_ids: Sequence[int], messages: Sequence[Message], tools: Sequence[ToolSpec]
    ) -> tuple[int, ...]:
        """The whole conversation as the template wants it now. Raises `TemplateRefuses`.

        Where its text begins with the text of `held_ids`, they are kept as they are; else nothing is.
        """
        return self._encoder.encode_keeping(held_ids, self._whole(messages, tools))

    def parse(
        self,
        ids: Sequence[int],
        tools: Sequence[ToolSpec] = (),
        *,
        first_call: int = 0,
        is_cut: bool = False,
    ) -> AssistantMessage:
        """What the sampled tokens say. Never raises: a malformed call is in `bad_calls`, and so is one that
        `is_cut`, the end of an answer by its length, may have left half of.
        """
        spoken = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        reasoning, text = self._split_reasoning(self._encoder.decode(spoken))
        parsed = self.format.parse(text, tools, first_call=first_call, is_cut=is_cut)
        return AssistantMessage(parsed.content, reasoning, parsed.tool_calls, parsed.bad_calls)

    def answer_ids(self, message: AssistantMessage) -> tuple[int, ...]:
        """The tokens that a policy would have to sample to say this: a demonstration to learn from."""
        text = self.format.render(message)
        if self.opens_thinking:
            text = f"{message.reasoning}\n{self._think_close}\n\n{text}"
        elif message.reasoning:
            text = f"{self._think_open}\n{message.reasoning}\n{self._think_close}\n\n{text}"
        return (*self._encoder.encode(text), *self.stop_ids[:1])

    def _whole(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        rows = self._guarded(to_rows(messages, self._shown(tools), self.format))
        return self._suffixes.whole(rows, self._tools(tools))

    def _guarded(self, rows: list[Row]) -> list[Row]:
        """Control tokens that stand in a message are text, or a tool's answer could speak as the system.

        Of what the assistant and the system say, only special ones: thoughts and calls may stand in an
        answer, and a system prompt may ask for them by their tokens.
        """
        for row in rows:
            is_own = row["role"] in ("assistant", "system")
            for name, value in row.items():
                if name == "role":  # templates compare it
                    continue
                in_text = is_own and name != "tool_calls"
                row[name] = _guarded(value, self._encoder.guard_special if in_text else self._encoder.guard)
        return rows

    def _shown(self, tools: Sequence[ToolSpec]) -> Sequence[ToolSpec]:
        return tools if self._describe_tools else ()

    def _tools(self, tools: Sequence[ToolSpec]) -> list[Row]:
        if not self.format.is_native or not self._describe_tools:
            return []
        if self._tool_rows[0] != tools:
            self._tool_rows = (tools, [_guarded(tool.to_openai(), self._encoder.guard) for tool in tools])
        return self._tool_rows[1]

    def _split_reasoning(self, text: str) -> tuple[str, str]:
        before, opened, thought = text.partition(self._think_open)
        if opened and not before.strip():
            text = thought
        elif not self.opens_thinking:
            return "", text
        reasoning, _, text = text.partition(self._think_close)
        return reasoning.strip(), text.lstrip()


def _guarded(value: object, guard: Callable[[str], str]) -> Any:
    """The value with every text in it guarded."""
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, dict):
        fields = cast(dict[str, object], value)
        return {guard(name): _guarded(inner, guard) for name, inner in fields.items()}
    if isinstance(value, list | tuple):
        return [_guarded(item, guard) for item in cast(list[object], value)]
    return value
