"""Rewards."""

from .answer import final_answer
from .exact import Exact
from .function import FunctionGrader, grader
from .grading import Grader, grade_episode
from .lambda_reward import LambdaReward
from .load import UnknownReward, load_reward
from .math import Math
from .named import NamedReward
from .numeric import Numeric, as_number, numbers
from .rubric import Rubric
from .suite import Suite
from .unit_tests import UnitTests

__all__ = [
    "Exact",
    "FunctionGrader",
    "Grader",
    "LambdaReward",
    "Math",
    "NamedReward",
    "Numeric",
    "Rubric",
    "Suite",
    "UnitTests",
    "UnknownReward",
    "as_number",
    "final_answer",
    "grade_episode",
    "grader",
    "load_reward",
    "numbers",
]
