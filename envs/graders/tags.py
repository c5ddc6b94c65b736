"""The answer has the form that was asked for."""

import re
from dataclasses import dataclass

from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Tags:
    """1 when the last message is these tags in this order, each once, with text in it and none around it.

    >>> Tags(names=("think", "answer"))   # <think>6 * 7</think><answer>42</answer>

    Reasoning that the chat format keeps apart counts as a `think` tag in front.
    """

    names: tuple[str, ...] = ("think", "answer")

    def __post_init__(self) -> None:
        if not self.names or not all(re.fullmatch(r"[A-Za-z_][\w-]*", name) for name in self.names):
            raise ValueError(f'Tags.names={self.names!r}; write names of tags, such as ("think", "answer")')

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        text = ""
        if episode.answers:
            last = episode.answers[-1]
            text = f"<think>{last.reasoning}</think>{last.content}" if last.reasoning else last.content
        flaw = self._flaw(text)
        return Score(reward=float(not flaw), evidence=flaw)

    def _flaw(self, text: str) -> str:
        """Why the text has another form; "" when it has this one."""
        rest = text
        for name in self.names:
            if text.count(f"<{name}>") != 1 or text.count(f"</{name}>") != 1:
                return f"<{name}> and </{name}> must stand there once each"
            before, _, rest = rest.partition(f"<{name}>")
            inner, closed, rest = rest.partition(f"</{name}>")
            if before.strip():
                return f"{before.strip()[:100]!r} stands before <{name}>"
            if not closed or not inner.strip():
                return f"<{name}> holds nothing"
        return f"{rest.strip()[:100]!r} stands behind the last tag" if rest.strip() else ""
