"""Models as judges, behind any OpenAI-compatible endpoint. `docs/judges.md` shows how."""

from .cache import VerdictCache
from .model import JudgeError, JudgeModel, Price, Spent
from .pair import PairJudge
from .point import Judge
from .template import (
    FAITHFULNESS,
    INSTRUCTION_FOLLOWING,
    REASONING,
    SUMMARY,
    TEMPLATES,
    Checklist,
    Criterion,
    Preference,
    Scale,
)

__all__ = [
    "FAITHFULNESS",
    "INSTRUCTION_FOLLOWING",
    "REASONING",
    "SUMMARY",
    "TEMPLATES",
    "Checklist",
    "Criterion",
    "Judge",
    "JudgeError",
    "JudgeModel",
    "PairJudge",
    "Preference",
    "Price",
    "Scale",
    "Spent",
    "VerdictCache",
]
