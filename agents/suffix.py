"""What a chat template writes behind the words of an assistant, whatever the template.

A sentinel takes the place of the answer; the suffix is what follows it in the rendered text. So nothing that
the model sampled has to pass through the template, which might strip, trim or rewrite it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
        stand_in, behind = self._behind(kind, before, answer, new, tools)
        rows = [*before, stand_in, *new]
        self._check_shown(rows, range(len(before) + 1, len(rows)), tools)
        closing = self._closings.get(kind)
        if closing is None or not behind.startswith(closing):
            alone = self._template.render([*before, stand_in], tools, generation_prompt=False)
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
    ) -> tuple[Row, str]:
        """The first stand-in for the answer that the template shows, and the text behind it."""
        stand_ins = list(_stand_ins(answer, self._sentinel))
        known = self._stand_in.get(kind, 0)
        order = [known, *(index for index in range(len(stand_ins)) if index != known)]
        refusal = TemplateRefuses("it leaves out what the assistant said")
        for index in order:
            rows = [*before, stand_ins[index], *new]
            try:
                behind = self._after_sentinel(self._template.render(rows, tools, generation_prompt=True))
            except TemplateRefuses as error:
                refusal = error
                continue
            if behind is not None:
                self._stand_in[kind] = index
                return stand_ins[index], behind
        raise refusal

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


def _stand_ins(answer: Row, sentinel: str) -> Iterator[Row]:
    """Rows of the answer's shape with the sentinel at the end of what the assistant says."""
    spoken: Row = {"role": "assistant", "content": sentinel}
    calls: list[dict[str, Any]] = answer.get("tool_calls", [])
    if calls:
        last: dict[str, Any] = {
            **calls[-1],
            "function": {**calls[-1]["function"], "arguments": {"x": sentinel}},
        }
        yield {"role": "assistant", "content": "", "tool_calls": [*calls[:-1], last]}
        yield {**spoken, "tool_calls": calls}
    yield spoken
