"""Constraints on the parts of a text: paragraphs, sections, lists, a title."""

import re

_OPENING_MARKS = "'\"\u201c\u2018*_"
_END_OF_WORD = re.compile(r"[.,?!'\"\u201d\u2019:;*_]")
_POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


def paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly so many, with *** between them; an empty one between two dividers is a mistake."""
    parts = [part.strip() for part in text.split("***")]
    inner = parts[1:-1]
    return all(inner) and sum(map(bool, parts)) == num_paragraphs


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many, with an empty line between them; the nth, from 1, starts with that word."""
    if not 1 <= nth_paragraph <= num_paragraphs:
        raise ValueError(f"nth_paragraph={nth_paragraph} is not among the {num_paragraphs} paragraphs")
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(parts) != num_paragraphs:
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip(_OPENING_MARKS)
    return _END_OF_WORD.split(word)[0].lower() == first_word.lower()


def sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings such as "Section 2"."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?[0-9]", text)) >= num_sections


def bullets(text: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with * or -; **bold** at the start of a line is none."""
    lines = [line.strip() for line in text.split("\n")]
    starred = [line for line in lines if line.startswith("*") and line[1:2] not in ("", "*")]
    dashed = [line for line in lines if line.startswith("-")]
    return len(starred) + len(dashed) == num_bullets


def title(text: str) -> bool:
    """Something in <<double angular brackets>> on one line."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if -1 < start < end and line[start:end].strip("<> \t"):
            return True
    return False


def postscript(text: str, *, postscript_marker: str) -> bool:
    """The marker stands there; for "P.S." and "P.P.S", also with spaces or in small letters."""
    marker = postscript_marker.strip()
    return re.search(_POSTSCRIPTS.get(marker, re.escape(marker.lower())), text.lower()) is not None
