"""Attacks that every backend has to stand, and a matrix that says which tier refuses which.

>>> target = Target("namespaces", view_of("namespaces"))
>>> [outcome.verdict async for outcome in run_suite(target, numbers=[1, 2])]
[<Verdict.HELD: 'held'>, <Verdict.HELD: 'held'>]

Programs inside need Python 3.8 or newer and the usual Unix tools; call numbers are those of x86-64.
"""

from .matrix import refusal
from .row import Broken, Row, Verdict
from .suite import ROWS, Outcome, run_row, run_suite
from .target import Target, View
from .views import view_of

__all__ = [
    "ROWS",
    "Broken",
    "Outcome",
    "Row",
    "Target",
    "Verdict",
    "View",
    "refusal",
    "run_row",
    "run_suite",
    "view_of",
]
