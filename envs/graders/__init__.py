"""Rewards."""

from .grader import Grader, grade_episode

__all__ = ["Grader", "grade_episode"]
