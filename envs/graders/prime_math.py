"""Mathematics with the answer in a box: by text first, then by math-verify."""

import re
from dataclasses import dataclass

from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task
from .answer import final_answer, reference_text
from .math import check_readable, is_same

_BOX = re.compile(r"\\f?boxed\s*\{")
_SAID = re.compile(r"(?:answer\s*(?:is|:|=))\s*(.+)", re.IGNORECASE)
_WRAPPING = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}")
_NOISE = re.compile(r"\\[,;!: ]|\\left|\\right|\\\$|\$|\^\{?\\circ\}?|\\?%|\s")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrimeMath:
    r"""1 when the answer in the last \boxed{} equals the reference: as text, or mathematically.

    >>> score = await PrimeMath().grade(task, episode, None)  # it said \boxed{\frac12}; the reference is 0.5
    >>> score.reward, score.components
    (1.0, {'boxed': 1.0})

    Without a box, what follows the last "answer is" counts. The reference may be a solution with a box.
    """

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for a reference that is missing, or that is no text, number or formula."""
        whole = reference_text(task)
        boxed = last_box(whole)
        reference = whole.strip() if boxed is None else boxed
        check_readable(task.id, reference)
        text = final_answer(episode, None) or ""
        answer = last_box(text)
        components = {"boxed": float(answer is not None)}
        if answer is None:
            said = _SAID.findall(text)
            answer = said[-1].strip().rstrip(".") if said else ""
        if not answer.strip():
            return Score(reward=0.0, components=components, evidence=f"no answer in {text[-100:]!r}")
        if "=" not in reference:
            answer = answer.rpartition("=")[2]  # "x = 5" for 5
        if plain(answer) == plain(reference):
            return Score(reward=1.0, components=components, evidence=f"answer {answer!r:.100}, as expected")
        is_equal, why = await is_same(reference, f"\\boxed{{{answer}}}")
        return Score(reward=float(is_equal), components=components, evidence=why)


def last_box(text: str) -> str | None:
    r"""What stands in the last \boxed{}, its own braces kept; None without one that is closed.

    >>> last_box(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    for start in reversed(list(_BOX.finditer(text))):
        depth = 1
        for brace in re.finditer(r"(?<!\\)[{}]", text[start.end() :]):
            depth += 1 if brace.group() == "{" else -1
            if depth == 0:
                return text[start.end() : start.end() + brace.start()].strip()
    return None


def plain(text: str) -> str:
    r"""Without what LaTeX writes and means nothing by.

    >>> plain(r"\text{Monday}\,"), plain(r"90^\circ")
    ('monday', '90')
    """
    return _NOISE.sub("", _WRAPPING.sub(r"\1", text)).rstrip(".").casefold()
