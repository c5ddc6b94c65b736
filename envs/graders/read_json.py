"""JSON that a policy wrote."""

import json
from typing import Any


class NotJson(ValueError):
    """The text is no JSON."""


def read_json(text: str) -> Any:
    """The value. Raises `NotJson`, also for NaN, infinities, and what is nested too deep to be read.

    >>> read_json('{"a": [1]}')
    {'a': [1]}
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotJson(f"{type(error).__name__}: {error}") from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
