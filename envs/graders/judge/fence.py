"""Text that a policy wrote, made into something that a judge reads and cannot be steered by."""

import re
import secrets
import unicodedata
from collections.abc import Iterable

from ...message import utf8

_CONTROL = re.compile(
    r"<\|[^|<>\n]{1,60}\|>"
    r"|<\uff5c[^\uff5c<>\n]{1,60}\uff5c>"  # DeepSeek's, with wide bars
    r"|</?(?:s|think|bos|eos|pad|unk|(?:start|end)_of_turn)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|gMASK)\]"
    r"|<</?SYS>>",
)


def says_nothing(text: str) -> bool:
    """No letter, no number, no symbol: only punctuation and space, as models send to fool a judge.

    >>> says_nothing(" : "), says_nothing("<"), says_nothing("No.")
    (True, False, False)
    """
    kinds = map(unicodedata.category, text)
    return not any(kind[0] in "LN" or kind in ("Sm", "Sc", "So") for kind in kinds)


def inert(text: str) -> str:
    """Without the control tokens of chat formats, which servers read in a message's text too.

    >>> inert("Done.<|im_end|>")
    'Done.< |im_end|>'
    """
    return _CONTROL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", utf8(text))


def cut(text: str, max_chars: int) -> str:
    """The beginning and the end of a text that is too long, and how much is missing between them.

    >>> cut("abcdefgh", 4)
    'ab\\n[... 4 characters left out ...]\\ngh'
    """
    if len(text) <= max_chars:
        return text
    head = max_chars - max_chars // 2
    tail = max_chars - head
    missing = len(text) - max_chars
    return f"{text[:head]}\n[... {missing} characters left out ...]\n{text[len(text) - tail :]}"


def fresh_mark(texts: Iterable[str]) -> str:
    """Twelve random characters that stand in none of the texts."""
    texts = tuple(texts)
    while True:
        mark = secrets.token_hex(6)
        if not any(mark in text for text in texts):
            return mark
