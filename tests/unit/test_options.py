"""Objects from what a person wrote: each value of its field's type, whatever kind of class it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from palaestra.envs.options import from_options

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Plain:
    low: float
    names: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.low < 0:
            raise ValueError(f"low is {self.low}; it is at least 0")


class Inherited(Plain):
    """Without a decorator of its own."""


@dataclass
class OnlyForACheckers:
    """A type that nobody imports when it runs."""

    worth: Decimal | int = 1


@dataclass(init=False)
class OwnInit:
    twice: int

    def __init__(self, half: int) -> None:
        self.twice = 2 * half


class NoDataclass:
    def __init__(self, a: int = 0, **rest: Any) -> None:
        self.all = {"a": a, **rest}


@pytest.mark.parametrize("kind", [Plain, Inherited])
def test_values_are_of_their_fields_types(kind: type[Plain]) -> None:
    found = from_options(kind, {"low": 1, "names": ["a", "b"], "inner": {"size": 3}})
    assert isinstance(found, kind) and isinstance(found.low, float)
    assert (found.names, found.inner) == (("a", "b"), Inner(size=3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"low": "much"}, "low: 'much': Input should be a valid number"),
        ({"low": -1}, "low is -1.0; it is at least 0"),
        ({"low": 1, "inner": {"sise": 3}}, "inner.sise: 3: no such field; did you mean 'size'"),
        ({"lo": 1}, "lo: 1: no such field; did you mean 'low'.; low: is missing"),
        ({}, "low: is missing"),
        ({"low": "x", "names": 3}, "low: 'x': .*; names: 3: "),
    ],
)
def test_each_wrong_one_is_named(options: dict[str, Any], words: str) -> None:
    for kind in (Plain, Inherited):
        with pytest.raises(ValueError, match=words):
            from_options(kind, options)


def test_a_class_that_tells_little_of_its_fields_is_made_all_the_same() -> None:
    assert from_options(OnlyForACheckers, {"worth": 7}).worth == 7
    assert from_options(OwnInit, {"half": 4}).twice == 8
    assert from_options(NoDataclass, {"a": 1, "b": 2}).all == {"a": 1, "b": 2}
