"""Graders by name, as a recipe says them: `reward: gsm8k`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .exact import Exact
from .finqa import FinQA
from .grading import Grader
from .gsm8k import Gsm8k
from .prime_math import PrimeMath
from .sql import SqlResult

PRESETS: Mapping[str, Callable[..., Grader]] = MappingProxyType(
    {
        "exact_match": Exact,
        "finqa": FinQA,
        "gsm8k": Gsm8k,
        "prime_math": PrimeMath,
        "sql": SqlResult,
    }
)
"""What each takes as options is its fields."""


def preset(name: str, **options: Any) -> Grader:
    """The grader of that name. Raises `ValueError` for a name or an option that does not exist.

    >>> preset("gsm8k", method="strict")
    Gsm8k(method='strict')
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; the presets are: {', '.join(PRESETS)}")
    try:
        return PRESETS[name](**options)
    except TypeError as error:
        raise ValueError(f"preset {name!r} with {options!r}: {error}; its options are its fields") from error
