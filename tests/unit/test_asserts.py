"""How asserts are taken apart, and the text that answers are compared by."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.envs.graders._candidate import encode
from palaestra.envs.graders.asserts import Case, imports_for, parse_asserts

_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from([0.0, -0.0, 1.0, 2.0]),
    st.text(max_size=3),
    st.binary(max_size=2),
)


def _inside(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    few = st.lists(values, max_size=3)
    keys = st.one_of(st.integers(-2, 2), st.text(max_size=1), st.booleans())
    return st.one_of(
        few, few.map(tuple), st.sets(keys, max_size=3), st.dictionaries(keys, values, max_size=3)
    )


VALUES = st.recursive(_LEAVES, _inside, max_leaves=6)


def shape(value: Any) -> Any:
    """`value` with its types written out, so that == is strict; int and float are one type."""
    kind = "number" if type(value) in (int, float) else type(value).__name__
    match value:
        case list() | tuple():
            return kind, [shape(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case set():
            return kind, frozenset(shape(item) for item in value)  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return kind, {shape(key): shape(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case _:
            return kind, value


@given(VALUES, VALUES)
def test_texts_are_equal_exactly_when_values_and_types_are(one: Any, other: Any) -> None:
    assert (encode(one) == encode(other)) == (shape(one) == shape(other))


@given(VALUES)
def test_the_text_is_json_of_printable_ascii(value: Any) -> None:
    text = encode(value)
    json.loads(text)
    assert text.isascii() and text.isprintable()


class Liar(str):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    "value", [Liar("x"), [Liar("x")], {Liar("x"): 1}, object(), int, range(2), iter([1])]
)
def test_what_is_no_plain_value_has_no_text(value: Any) -> None:
    with pytest.raises(TypeError, match="no plain value"):
        encode(value)


def test_the_call_and_the_expected_value_are_taken_apart() -> None:
    assert parse_asserts(["assert f(1) == (2,), 'f is wrong'", "assert 3 == f(x=[1])"]) == [
        Case(call="f(1)", expected='{"tuple":[2]}', source="(2,)"),
        Case(call="f(x=[1])", expected="3", source="3"),
    ]
    assert parse_asserts("assert f() == sys.getsizeof(1)")[0].expected == ""
    assert imports_for("sys.getsizeof(math.pi, x)") == "import math\nimport sys"


@pytest.mark.parametrize(
    "reference", [None, 5, [], "", ["print(1)"], ["assert f()"], ["assert 1 == 1"], [3], ["assert ("]]
)
def test_a_reference_that_is_no_list_of_asserts_is_refused(reference: Any) -> None:
    with pytest.raises(ValueError, match=r"assert|not Python"):
        parse_asserts(reference)
