"""Constraints on how often something stands in the text. All take time in proportion to its length."""

import re
from collections.abc import Sequence

# fmt: off
_ABBREVIATIONS = frozenset((
    "al", "approx", "co", "dept", "dr", "e.g", "est", "etc", "fig", "gen", "i.e", "inc", "jr", "ltd", "mr",
    "mrs", "ms", "no", "prof", "rep", "sen", "sr", "st", "vs",
))
# fmt: on
_SENTENCE_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]+[\"'\u201d\u2019)\]*_]{0,4}(?=\s|$)"
    r"|[\u3002\uff01\uff1f\u0964]+"
    r"|\n[ \t\r]*\n"
)
_ORDINAL_OR_INITIAL = re.compile(r"[0-9]{1,3}|[^\W\d_]")
_WORD_WITH_HYPHENS = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")


def compare(number: int, relation: str, bound: int) -> bool:
    """The two relations that IFEval has.

    >>> compare(3, "at least", 3), compare(3, "less than", 3)
    (True, False)
    """
    if relation not in ("at least", "less than"):
        raise ValueError(f'the relation is {relation!r}; it must be "at least" or "less than"')
    return number >= bound if relation == "at least" else number < bound


def keywords(text: str, *, keywords: Sequence[str]) -> bool:
    """Each stands somewhere, also inside a longer word; capitals do not matter."""
    return all(word.strip().lower() in text.lower() for word in _texts(keywords))


def keyword_frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """Also inside a longer word; capitals do not matter."""
    return compare(text.lower().count(keyword.strip().lower()), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    """None stands there as a word of its own; capitals do not matter."""
    return not any(
        re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE)
        for word in _texts(forbidden_words)
    )


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """One character, which need not be a letter; capitals do not matter."""
    if len(letter) != 1:
        raise ValueError(f"the letter is {letter!r}; it must be one character")
    return compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def words(text: str, *, num_words: int, relation: str) -> bool:
    """Runs of letters, digits and underscores: "don't" is two, as IFEval counts."""
    return compare(len(re.findall(r"\w+", text)), relation, num_words)


def capital_words(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """Words without a small letter; one with hyphens or an apostrophe is one."""
    shouted = [word for word in _WORD_WITH_HYPHENS.findall(text) if word.isupper()]
    return compare(len(shouted), capital_relation, capital_frequency)


def sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    """See `count_sentences`."""
    return compare(count_sentences(text), relation, num_sentences)


def count_sentences(text: str) -> int:
    """Stretches of words that end in . ! ? or their like, or at an empty line.

    The stop of an abbreviation, an initial or a list's number ends none. No model is asked, which IFEval's
    own count does: the two may differ by one where a name or a quotation is odd.

    >>> count_sentences("Dr. Smith paid 3.50! Did he? He did")
    3
    """
    number, start = 0, 0
    for found in _SENTENCE_END.finditer(text):
        piece = text[start : found.start()]
        if found[0] == "." and _is_short_form(piece):
            continue
        number += _has_words(piece)
        start = found.end()
    return number + _has_words(text[start:])


def _is_short_form(piece: str) -> bool:
    last = piece[-12:].split()[-1:] or [""]
    word = last[0].lstrip("(\"'\u201c\u2018*_#").lower()
    return word in _ABBREVIATIONS or (bool(_ORDINAL_OR_INITIAL.fullmatch(word)) and word != "i")


def _has_words(piece: str) -> bool:
    return any(map(str.isalnum, piece))


def placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least so many, such as [address]."""
    return len(re.findall(r"\[[^\[\]\n]*\]", text)) >= num_placeholders


def highlights(text: str, *, num_highlights: int) -> bool:
    """At least so many *stretches* or **stretches**."""
    found = re.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", text)
    return sum(bool(stretch.strip("* \t")) for stretch in found) >= num_highlights


def _texts(value: Sequence[str]) -> Sequence[str]:
    """The list, if it is one: the letters of a str would be taken for words."""
    if isinstance(value, str) or not value:
        raise ValueError(f"the words are {value!r}; they must be a list of at least one str")
    return value
