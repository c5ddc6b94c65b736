"""Where the answer stands in what a policy said last."""

from ..episode import Episode
from ..message import last_assistant_text


def final_answer(episode: Episode, prefix: str | None) -> str | None:
    """The last thing said; with a `prefix`, the rest of the line after its last use, None without one.

    >>> final_answer(episode, "Answer:")    # the policy ended with "I am sure.\\nAnswer: 42"
    '42'
    """
    text = last_assistant_text(episode.messages)
    if prefix is None:
        return text.strip()
    _, found, rest = text.rpartition(prefix)
    return rest.strip().partition("\n")[0].strip() if found else None
