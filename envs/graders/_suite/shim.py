"""The module that a suite gets for `import pytest`: what is in `__all__`, and nothing else."""

from .approx import approx
from .marks import fixture, mark, param
from .outcomes import ExceptionInfo, fail, importorskip, raises, skip, warns, xfail
from .tools import CaptureFixture, MonkeyPatch, TempPathFactory
from .tools import Request as FixtureRequest

__all__ = [
    "CaptureFixture",
    "ExceptionInfo",
    "FixtureRequest",
    "MonkeyPatch",
    "TempPathFactory",
    "approx",
    "fail",
    "fixture",
    "importorskip",
    "mark",
    "param",
    "raises",
    "skip",
    "warns",
    "xfail",
]
