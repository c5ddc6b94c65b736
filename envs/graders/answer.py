"""What a policy answered, and what it is compared with."""

import math

from ..episode import Episode
from ..errors import BadTask
from ..task import Task


def final_answer(episode: Episode, prefix: str | None) -> str | None:
    """The last thing said; with a `prefix`, the rest of the line after its last use, None without one.

    >>> final_answer(episode, "Answer:")    # the policy ended with "I am sure.\\nAnswer: 42"
    '42'
    """
    text = episode.answers[-1].content if episode.answers else ""
    if prefix is None:
        return text.strip()
    _, found, rest = text.rpartition(prefix)
    return rest.strip().partition("\n")[0].strip() if found else None


def reference_text(task: Task) -> str:
    """The reference as text. Raises `ValueError` where there is none: None, NaN, or only white space."""
    reference = task.reference
    is_missing = reference is None or (isinstance(reference, float) and math.isnan(reference))
    if is_missing or not str(reference).strip():
        raise BadTask(f"task {task.id!r} has no reference to compare with: it is {reference!r}")
    return str(reference)
