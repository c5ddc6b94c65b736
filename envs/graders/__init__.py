"""Rewards."""

from .answer import final_answer
from .constraints import CONSTRAINT_IDS, Constraint, Constraints, parse_constraints
from .exact import Exact
from .function import FunctionGrader, grader
from .grading import Grader, grade_episode
from .json_schema import JsonSchema
from .language import Language, detect_language
from .length import Length
from .math import Math
from .numeric import Numeric, as_number, numbers
from .regex import Regex
from .rubric import Gate, Rubric
from .suite import Suite
from .tags import Tags
from .unit_tests import UnitTests

__all__ = [
    "CONSTRAINT_IDS",
    "Constraint",
    "Constraints",
    "Exact",
    "FunctionGrader",
    "Gate",
    "Grader",
    "JsonSchema",
    "Language",
    "Length",
    "Math",
    "Numeric",
    "Regex",
    "Rubric",
    "Suite",
    "Tags",
    "UnitTests",
    "as_number",
    "detect_language",
    "final_answer",
    "grade_episode",
    "grader",
    "numbers",
    "parse_constraints",
]
