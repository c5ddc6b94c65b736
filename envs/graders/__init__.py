"""Rewards."""

from .answer import final_answer
from .exact import Exact
from .finqa import FinQA
from .function import FunctionGrader, grader
from .grading import Grader, grade_episode
from .gsm8k import Gsm8k
from .math import Math
from .numeric import Numeric, as_number, numbers
from .presets import preset
from .prime_math import PrimeMath
from .rubric import Rubric
from .sql import SqlResult
from .suite import Suite
from .unit_tests import UnitTests

__all__ = [
    "Exact",
    "FinQA",
    "FunctionGrader",
    "Grader",
    "Gsm8k",
    "Math",
    "Numeric",
    "PrimeMath",
    "Rubric",
    "SqlResult",
    "Suite",
    "UnitTests",
    "as_number",
    "final_answer",
    "grade_episode",
    "grader",
    "numbers",
    "preset",
]
