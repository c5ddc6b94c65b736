"""Constraints on the text as a whole: its language, its case, how it begins and ends."""

from ...text_language import detect_language
from ..read_json import NotJson, read_json

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def response_language(text: str, *, language: str) -> bool:
    """Most of the text is in the language of that ISO 639-1 code."""
    return detect_language(text) == language


def english_capital(text: str) -> bool:
    """English, and no small letter."""
    return text.isupper() and detect_language(text) == "en"


def english_lowercase(text: str) -> bool:
    """English, and no capital."""
    return text.islower() and detect_language(text) == "en"


def no_comma(text: str) -> bool:
    """Not one."""
    return "," not in text


def quotation(text: str) -> bool:
    """All of it stands between two double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def end_phrase(text: str, *, end_phrase: str) -> bool:
    """The last words; capitals do not matter, nor quotation marks around the whole."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """It begins with the prompt; capitals do not matter."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def two_responses(text: str) -> bool:
    """Two that differ, with ****** between them."""
    parts = [part.strip() for part in text.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def constrained_response(text: str) -> bool:
    """One of three sentences stands there."""
    return any(option in text for option in _OPTIONS)


def json_format(text: str) -> bool:
    """All of it is JSON; a fence around it is allowed."""
    text = text.strip()
    head, newline, rest = text.partition("\n")
    if newline and head.strip().lower() in ("```", "```json") and rest.endswith("```"):
        text = rest.removesuffix("```")
    try:
        read_json(text)
    except NotJson:
        return False
    return True
