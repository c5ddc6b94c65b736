"""Graders by name, as a recipe says them: `reward: gsm8k`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..options import from_options
from .constraints import Constraints
from .exact import Exact
from .finqa import FinQA
from .grading import Grader
from .gsm8k import Gsm8k
from .json_schema import JsonSchema
from .math import Math
from .numeric import Numeric
from .prime_math import PrimeMath
from .regex import Regex
from .sql import SqlResult
from .unit_tests import UnitTests

PRESETS: Mapping[str, type[Grader]] = MappingProxyType(
    {
        "code": UnitTests,
        "exact_match": Exact,
        "finqa": FinQA,
        "gsm8k": Gsm8k,
        "ifeval": Constraints,
        "json_schema": JsonSchema,
        "math": Math,
        "numeric": Numeric,
        "prime_math": PrimeMath,
        "regex": Regex,
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
        return from_options(PRESETS[name], options)
    except ValueError as error:
        raise ValueError(f"preset {name!r}: {error}") from error
