"""What is kept or shown of a recipe: everything but its secrets."""

import re
from collections.abc import Iterator
from typing import Any, cast

_SECRET = re.compile(
    r"(^|[._-])((api|access|secret|private|auth)?(key|token|secret)"
    r"|password|passwd|passphrase|credential|auth|authorization)s?$"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_USER = re.compile(r"(?<=://)[^/?#\s]+(?=@)")
"""In a URL, who asks and with which password."""
_BLANK = "[redacted]"


def redacted(value: object) -> Any:
    """The same structure without what is named like a secret, or stands before the host of a URL.

    >>> redacted({"url": "http://me:pw@host", "apiKey": "k", "args": ["--hf-token", "t"]})
    {'url': 'http://[redacted]@host', 'apiKey': '[redacted]', 'args': ['--hf-token', '[redacted]']}
    """
    if isinstance(value, dict):
        fields = cast(dict[object, object], value)
        return {
            name: _BLANK if _is_secret(str(name), found) else redacted(found)
            for name, found in fields.items()
        }
    if isinstance(value, list):
        return list(_redacted_items(cast(list[object], value)))
    return _USER.sub(_BLANK, value) if isinstance(value, str) else value


def _redacted_items(items: list[object]) -> Iterator[Any]:
    """In a list of arguments, a flag names what follows it: `--api-key=K`, and `--api-key K1 K2`."""
    flag = ""
    for item in items:
        if isinstance(item, str) and item.startswith("-"):
            flag, equals, given = item.partition("=")
            yield f"{flag}={_BLANK}" if equals and _is_secret(flag, given) else redacted(item)
        else:
            yield _BLANK if isinstance(item, str) and _is_secret(flag, item) else redacted(item)


def _is_secret(name: str, value: object) -> bool:
    """Numbers are none: `max_tokens` is named like one, and so is `--max-num-batched-tokens 2048`."""
    is_number = isinstance(value, int | float) or (name.startswith("-") and str(value).isdecimal())
    return bool(_SECRET.search(_CAMEL.sub("_", name).lower()) and value) and not is_number
