"""What a chat template writes behind the words of an assistant, whatever the template.

A sentinel takes the place of the answer; the suffix is what follows it in the rendered text. So nothing that
the model sampled has to pass through the template, which might strip, trim or rewrite it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from .template import ChatTemplate, Row, TemplateRefuses, new_sentinel
from .tokengraph import common_prefix


@dataclass(frozen=True, kw_only=True, slots=True)
class Suffix:
    """The text behind one answer."""

    closing: str
    """From the answer's end to the turn's end: behind a tool call, it begins with the call's own end."""
    cut: str
    """What closes the turn of an answer that was cut by its length."""
    rest: str
    """The new messages and the generation prompt."""


class SuffixFinder:
    """Remembers, per kind of conversation, which sentinel worked and how a turn is closed."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._sentinel, self._probe = new_sentinel(), new_sentinel()
        self._shown: set[str] = set()
        self._closings: dict[tuple[bool, str], str] = {}
        self._stand_in: dict[tuple[bool, str], int] = {}
        self.plain_closing = self._probe_closing()
        """How a turn without tool calls is closed."""
        self.generation_prompt = self._probe_generation_prompt()
        """What the template writes for the assistant to go on."""

    def whole(self, rows: Sequence[Row], tools: Sequence[Row]) -> str:
        """The conversation with the generation prompt. Raises `TemplateRefuses`."""
        text = self._template.render(rows, tools, generation_prompt=True)
        self._check_shown(rows, range(len(rows)), tools)
        return text

    def find(self, before: Sequence[Row], answer: Row, new: Sequence[Row], tools: Sequence[Row]) -> Suffix:
        """The text behind `answer`. Raises `TemplateRefuses`."""
        has_calls = bool(answer.get("tool_calls"))
        kind = (has_calls, new[0]["role"] if new else "")
        until, behind = self._behind(kind, before, answer, new, tools)
        self._check_shown([*until, *new], range(len(until), len(until) + len(new)), tools)
        closing = self._closings.get(kind)
        if closing is None or not behind.startswith(closing):
            alone = self._template.render(until, tools, generation_prompt=False)
            closing = behind[: common_prefix(behind, self._after_sentinel(alone) or "")]
            self._closings[kind] = closing
        cut = closing
        if has_calls:  # some templates go on in the same turn behind a call
            cut = self.plain_closing if self.plain_closing in closing else ""
        return Suffix(closing=closing, cut=cut, rest=behind[len(closing) :])

    def _behind(
        self,
        kind: tuple[bool, str],
        before: Sequence[Row],
        answer: Row,
        new: Sequence[Row],
        tools: Sequence[Row],
    ) -> tuple[list[Row], str]:
        """The conversation up to a stand-in for the answer, which the template shows; the text behind it."""
        lasts = _last_rows(answer, self._sentinel)
        known = self._stand_in.get(kind, 0)
        order = [known, *(index for index in range(2 * len(lasts)) if index != known)]
        refusals: list[TemplateRefuses] = []
        for index in order:
            until = _until(before, lasts[index % len(lasts)], is_whole=index < len(lasts))
            try:
                text = self._template.render([*until, *new], tools, generation_prompt=True)
            except TemplateRefuses as error:
                refusals.append(error)
                continue
            behind = self._after_sentinel(text)
            if behind is not None:
                self._stand_in[kind] = index
                return until, behind
        raise refusals[0] if refusals else TemplateRefuses("it leaves out what the assistant said")

    def _after_sentinel(self, text: str) -> str | None:
        at = text.rfind(self._sentinel)
        return None if at < 0 else text[at + len(self._sentinel) :]

    def _check_shown(self, rows: Sequence[Row], indices: range, tools: Sequence[Row]) -> None:
        """A role that the template silently drops is refused: the policy would never hear it."""
        for index in indices:
            role = rows[index]["role"]
            if role == "assistant" or role in self._shown:
                continue
            marked = [*rows[:index], {**rows[index], "content": self._probe}, *rows[index + 1 :]]
            if self._probe not in self._template.render(marked, tools, generation_prompt=True):
                raise TemplateRefuses(f"it leaves out the messages of role {role!r}")
            self._shown.add(role)

    def _probe_closing(self) -> str:
        user, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": self._sentinel}
        try:
            between = self._after_sentinel(
                self._template.render([user, answer, user], (), generation_prompt=True)
            )
            alone = self._after_sentinel(self._template.render([user, answer], (), generation_prompt=False))
        except TemplateRefuses:  # it may take conversations of another shape
            return ""
        return alone[: common_prefix(alone, between)] if alone and between else ""

    def _probe_generation_prompt(self) -> str:
        user: Row = {"role": "user", "content": "x"}
        try:
            without = self._template.render([user], (), generation_prompt=False)
            return self._template.render([user], (), generation_prompt=True).removeprefix(without)
        except TemplateRefuses:
            return ""


def _last_rows(answer: Row, sentinel: str) -> list[Row]:
    """The answer with the sentinel at the end of what it says, the most faithful one first."""
    spoken: Row = {"role": "assistant", "content": sentinel}
    calls: list[dict[str, Any]] = answer.get("tool_calls", [])
    if not calls:
        return [spoken]
    function = {**calls[-1]["function"], "arguments": {"x": sentinel}}
    marked = [*calls[:-1], {**calls[-1], "function": function}]
    return [{**spoken, "content": "", "tool_calls": marked}, {**spoken, "tool_calls": calls}, spoken]


def _until(before: Sequence[Row], last: Row, is_whole: bool) -> list[Row]:
    """The conversation that ends with `last`, as a whole or without what came after the opening.

    The shorter one is for a template that refuses what the policy said before (two calls at once, thoughts
    beside a call): that stands in the tokens anyway.
    """
    if is_whole:
        return [*map(_without_thoughts, before), last]
    opening = takewhile(lambda row: row["role"] != "assistant", before)
    return [*opening, last]


def _without_thoughts(row: Row) -> Row:
    if "reasoning_content" not in row:
        return row
    return {key: value for key, value in row.items() if key != "reasoning_content"}
