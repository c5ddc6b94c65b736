"""Rewards."""

from ..text_language import detect_language
from .answer import final_answer
from .constraints import CONSTRAINT_IDS, Constraint, Constraints, parse_constraints
from .exact import Exact
from .finqa import FinQA
from .function import FunctionGrader, grader
from .grading import AnyGrader, Grader, GroupGrader, grade_episode
from .gsm8k import Gsm8k
from .json_schema import JsonSchema
from .lambda_reward import LambdaReward
from .language import Language
from .length import Length
from .load import UnknownReward, load_reward
from .math import Math
from .named import NamedReward
from .numeric import Numeric, as_number, numbers
from .presets import preset
from .prime_math import PrimeMath
from .regex import Regex
from .rubric import Gate, Rubric
from .sql import SqlResult
from .suite import Suite
from .tags import Tags
from .unit_tests import UnitTests

__all__ = [
    "CONSTRAINT_IDS",
    "AnyGrader",
    "Constraint",
    "Constraints",
    "Exact",
    "FinQA",
    "FunctionGrader",
    "Gate",
    "Grader",
    "GroupGrader",
    "Gsm8k",
    "JsonSchema",
    "LambdaReward",
    "Language",
    "Length",
    "Math",
    "NamedReward",
    "Numeric",
    "PrimeMath",
    "Regex",
    "Rubric",
    "SqlResult",
    "Suite",
    "Tags",
    "UnitTests",
    "UnknownReward",
    "as_number",
    "detect_language",
    "final_answer",
    "grade_episode",
    "grader",
    "load_reward",
    "numbers",
    "parse_constraints",
    "preset",
]
