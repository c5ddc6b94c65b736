"""The language of an answer."""

from dataclasses import dataclass

from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task
from ..text_language import detect_language
from .answer import final_answer


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
