"""A model's chat template: messages in, text out, with the helpers that transformers gives it."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from secrets import token_hex
from typing import Any, NoReturn

from jinja2 import Template
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

Row = dict[str, Any]
"""One message in the OpenAI chat form."""


class TemplateRefuses(Exception):
    """The chat template cannot show this conversation. The text says why."""

    is_retryable = False

    def __init__(self, reason: str) -> None:
        super().__init__(f"the chat template refuses this conversation: {reason}")
        self.reason = reason


def new_sentinel() -> str:
    """Text that nothing else contains, to find one's way in what a template made of it."""
    return f"zq{token_hex(8)}"


class ChatTemplate:
    """A compiled template with the model's special tokens filled in.

    Templates differ in what they take: `content` as text or as a list of parts, the arguments of a call as
    an object or as JSON text. Which of them this one wants is found out by trying.
    """

    def __init__(
        self, source: str, *, special_tokens: Mapping[str, str], kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self._template = _compile(source)
        self._fixed = {"bos_token": "", "eos_token": "", **special_tokens, **(kwargs or {})}
        self._reasoning_key = "reasoning_content" if "reasoning_content" in source else "thinking"
        self._parts = self._wants_parts()
        self._json_arguments = "tool_calls" in source and self._wants_json_arguments()

    def render(self, rows: Sequence[Row], tools: Sequence[Row], *, generation_prompt: bool) -> str:
        """The conversation as text. Raises `TemplateRefuses`."""
        return self._render([self._adapt(row) for row in rows], tools, generation_prompt)

    def _render(self, rows: Sequence[Row], tools: Sequence[Row], generation_prompt: bool) -> str:
        try:
            return self._template.render(
                messages=rows, tools=tools or None, add_generation_prompt=generation_prompt, **self._fixed
            )
        except Exception as error:  # a template is other people's code: what it cannot show, it refuses
            raise TemplateRefuses(f"{type(error).__name__}: {error}") from error

    def _adapt(self, row: Row) -> Row:
        """The row as this template wants it."""
        row = dict(row)
        if "reasoning_content" in row:
            row[self._reasoning_key] = row.pop("reasoning_content")
        if self._parts:
            row["content"] = [{"type": "text", "text": row["content"]}]
        if self._json_arguments and "tool_calls" in row:
            row["tool_calls"] = [_with_json_arguments(call) for call in row["tool_calls"]]
        return row

    def _wants_parts(self) -> bool:
        mark = new_sentinel()
        for parts in (False, True):
            content = [{"type": "text", "text": mark}] if parts else mark
            try:
                if mark in self._render([{"role": "user", "content": content}], (), True):
                    return parts
            except TemplateRefuses:
                continue
        return False

    def _wants_json_arguments(self) -> bool:
        """True where an object would break it, or come out as a Python dict."""
        mark = new_sentinel()
        function = {"name": "probe", "arguments": {mark: "x"}}
        call = {"id": "probe0000", "type": "function", "function": function}
        rows: list[Row] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        if self._parts:
            for row in rows:
                row["content"] = [{"type": "text", "text": row["content"]}]
        try:
            return f"{{'{mark}'" in self._render(rows, (), False)
        except TemplateRefuses:
            pass
        rows[1]["tool_calls"] = [_with_json_arguments(call)]
        try:
            return mark in self._render(rows, (), False)
        except TemplateRefuses:
            return False


def _with_json_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {
        **call,
        "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)},
    }


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says; as text it is nothing."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_show"), [], [], body).set_lineno(line)

    def _show(self, caller: Macro) -> str:
        return caller()


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    helpers: dict[str, Any] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals.update(helpers)
    environment.filters["tojson"] = _tojson
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ValueError(
            f"the chat template is not valid Jinja: {error}; check chat_template.jinja"
        ) from error


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
