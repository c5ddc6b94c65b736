"""Rewards."""

from .answer import final_answer
from .exact import Exact
from .function import FunctionGrader, grader
from .grading import AnyGrader, Grader, GroupGrader, grade_episode
from .math import Math
from .numeric import Numeric, as_number, numbers
from .rubric import Rubric
from .suite import Suite
from .unit_tests import UnitTests

__all__ = [
    "AnyGrader",
    "Exact",
    "FunctionGrader",
    "Grader",
    "GroupGrader",
    "Math",
    "Numeric",
    "Rubric",
    "Suite",
    "UnitTests",
    "as_number",
    "final_answer",
    "grade_episode",
    "grader",
    "numbers",
]
