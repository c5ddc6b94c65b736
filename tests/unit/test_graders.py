"""Rule-based graders and the rubric."""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Message,
    Score,
    Scored,
    StopReason,
    Task,
    Ungraded,
    UserMessage,
    Workspace,
)
from palaestra.envs.graders import (
    Exact,
    Grader,
    Math,
    Numeric,
    Rubric,
    as_number,
    final_answer,
    grade_episode,
    grader,
    numbers,
)
from palaestra.envs.worker import Worker


def episode(*said: str) -> Episode:
    messages: list[Message] = [UserMessage("question"), *map(AssistantMessage, said)]
    return Episode(task_id="t", seed=0, messages=tuple(messages), stop=StopReason.DONE)


def reward(grader: Grader, reference: Any, *said: str) -> float:
    task = Task(id="t", reference=reference)
    return run_async(grader.grade(task, episode(*said), None)).reward


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("I am sure.\nAnswer: 42", "42"),
        ("Answer: 1\nno, Answer:  2 \nbye", "2"),
        ("Answer:\n 42 \n", "42"),
        ("42", None),
        ("Answer:", ""),
    ],
)
def test_the_answer_stands_behind_the_last_prefix(said: str, answer: str | None) -> None:
    assert final_answer(episode("Answer: 7", said), "Answer:") == answer


@pytest.mark.parametrize(
    ("grader", "said", "expected"),
    [
        (Exact(), "Paris", 1.0),
        (Exact(), " Paris\n", 1.0),
        (Exact(), "paris", 0.0),
        (Exact(ignore_case=True), "paris", 1.0),
        (Exact(), "It is Paris", 0.0),
        (Exact(prefix="Answer:"), "It is\nAnswer: Paris", 1.0),
        (Exact(prefix="Answer:"), "Paris", 0.0),
        (Exact(), "", 0.0),
    ],
)
def test_exact(grader: Grader, said: str, expected: float) -> None:
    assert reward(grader, "Paris", said) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from 1,200 to -3.5e2", ["1200", "-350"]),
        ("5-3", ["5", "3"]),
        ("1,2,3", ["1", "2", "3"]),
        ("\N{MINUS SIGN}7 and +8 and .5", ["-7", "8", "0.5"]),
        ("3.", ["3"]),
        ("1,234,567.89 1,23", ["1234567.89", "1", "23"]),
        ("none", []),
    ],
)
def test_numbers_are_found_in_text(text: str, found: list[str]) -> None:
    assert numbers(text) == [Decimal(number) for number in found]


@given(st.text(alphabet="0123456789.,-+eE ", max_size=60))
def test_no_answer_can_break_the_numeric_grader(text: str) -> None:
    assert reward(Numeric(), "1", text) in (0.0, 1.0)
    as_number(text)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**12), max_value=10**12))
def test_a_number_equals_itself_however_it_is_written(number: Decimal) -> None:
    assert reward(Numeric(prefix="Answer:"), str(number), f"Answer: {number:,f}.") == 1.0


@pytest.mark.parametrize(
    ("grader", "reference", "said", "expected"),
    [
        (Numeric(), 42, "it was 41, now 42", 1.0),
        (Numeric(), 42, "it was 42, now 41", 0.0),
        (Numeric(), "0.3", "0.30000000000000004", 1.0),
        (Numeric(), "793546072123456789", "793546072123456790", 0.0),
        (Numeric(rel_tol=0.01), 100, "100.9", 1.0),
        (Numeric(rel_tol=0.01), 100, "101.1", 0.0),
        (Numeric(prefix="Answer:"), 5, "Answer: 5 apples, 3 pears", 1.0),
        (Numeric(prefix="Answer:"), 5, "5", 0.0),
        (Numeric(), 5, "1e999 9" + "9" * 5000, 0.0),
        (Numeric(), 5, "", 0.0),
        (Numeric(), 5e-7, "0", 0.0),
        (Numeric(), 1 / 12, "0.083333", 1.0),
        (Numeric(), 6.62607015e-34, "6.626070151e-34", 1.0),
        (Numeric(), 6.62607015e-34, "6.7e-34", 0.0),
        (Numeric(), 0, "5.6e-17", 1.0),
        (Numeric(abs_tol=0.5), 0.25, "0", 1.0),
    ],
)
def test_numeric(grader: Grader, reference: object, said: str, expected: float) -> None:
    assert reward(grader, reference, said) == expected


@pytest.mark.parametrize("grader", [Exact(), Numeric(), Math()])
@pytest.mark.parametrize("reference", [None, "", " ", float("nan")])
def test_a_task_without_a_usable_reference_is_not_graded(grader: Grader, reference: object) -> None:
    outcome = run_async(grade_episode(grader, Task(id="t", reference=reference), episode("")))
    assert isinstance(outcome, Ungraded) and "'t'" in outcome.reason


def test_math_takes_no_missing_number_for_a_formula() -> None:
    outcome = run_async(grade_episode(Math(), Task(id="t", reference="nan"), episode("1")))
    assert isinstance(outcome, Ungraded) and "'nan' is no number" in outcome.reason


@grader
def is_short(task: Task, episode: Episode) -> float:
    return float(len(episode.messages[-1].content) < 5)


@grader
async def breaks(task: Task, episode: Episode) -> float:
    raise ConnectionError("the judge is away")


@dataclass(frozen=True, slots=True)
class Returns:
    """A grader that says the same of everything."""

    value: Any

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Any:
        return self.value


class Slow:
    """Never ends; knows whether it was stopped."""

    was_cancelled = False

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        raise AssertionError


def test_plain_and_async_functions_are_graders() -> None:
    assert (reward(is_short, None, "hi"), reward(is_short, None, "hello")) == (1.0, 0.0)
    with pytest.raises(ConnectionError):
        reward(breaks, None, "hi")


def test_a_rubric_weighs_its_parts_and_keeps_each() -> None:
    rubric = Rubric(
        correct=(0.8, Rubric(text=(1.0, Exact()))), short=(0.1, is_short), penalty=(-0.5, is_short)
    )
    score = run_async(rubric.grade(Task(id="t", reference="42"), episode("42"), None))
    assert score.reward == pytest.approx(0.4)
    assert score.components == {"correct": 1.0, "correct.text": 1.0, "short": 1.0, "penalty": 1.0}
    assert score.evidence == "correct: text: answer '42', expected '42'"


def test_a_rubric_with_a_broken_part_gives_no_number_and_stops_the_others() -> None:
    slow = Slow()
    rubric = Rubric(correct=(1.0, Exact()), judge=(1.0, breaks), slow=(1.0, slow))
    outcome = run_async(grade_episode(rubric, Task(id="t", reference="42"), episode("42")))
    assert isinstance(outcome, Ungraded)
    assert "rubric part 'judge': ConnectionError: the judge is away" in outcome.reason
    assert slow.was_cancelled


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (grader(lambda task, episode: sys.exit(2)), "CodeExited: sys.exit(2) was called"),
        (Returns(1.0), "TypeError: the part returned 1.0; it must return Score"),
    ],
)
def test_a_rubric_names_the_part_that_exits_or_lies(part: Grader, why: str) -> None:
    outcome = run_async(grade_episode(Rubric(odd=(1.0, part)), Task(id="t"), episode("42")))
    assert isinstance(outcome, Ungraded) and f"rubric part 'odd': {why}" in outcome.reason


@pytest.mark.parametrize("value", [7.0, -1e-6])
def test_a_reward_outside_the_declared_range_is_a_bug_and_no_score(value: float) -> None:
    outcome = run_async(
        grade_episode(Returns(Score(reward=value)), Task(id="t"), episode("42"), reward_range=(0.0, 4.0))
    )
    assert outcome == Ungraded(
        reason=f"range: the reward {value:g} is outside the env's reward_range (0.0, 4.0); "
        "declare a wider one on the environment, or mend the grader"
    )


def test_a_bound_that_rounding_missed_is_a_score() -> None:
    value = 0.7 + 0.2 + 0.1 + 2e-16
    outcome = run_async(
        grade_episode(
            Returns(Score(reward=value)), Task(id="t"), episode("42"), reward_range=(0.0, value - 3e-16)
        )
    )
    assert outcome == Scored(reward=value)


def test_what_a_policy_earns_step_by_step_counts_also_outside_the_range() -> None:
    lost = replace(episode("I stand"), rewards=(-1.0,))
    outcome = run_async(grade_episode(None, Task(id="t"), lost, reward_range=(0.0, 1.0)))
    assert isinstance(outcome, Scored) and outcome.reward == -1.0


def test_an_answer_in_the_opening_is_an_example_and_not_the_policys() -> None:
    shown = (UserMessage("1+1?"), AssistantMessage("2"), UserMessage("0+2?"))
    asked = Episode(task_id="t", seed=0, messages=shown, num_opening=3, stop=StopReason.DONE)
    assert (asked.num_turns, final_answer(asked, None)) == (0, "")
    said = replace(asked, messages=(*shown, AssistantMessage("3")))
    assert (said.num_turns, final_answer(said, None)) == (1, "3")


def test_an_empty_rubric_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        Rubric()


@pytest.fixture
def math_workers() -> Iterator[None]:
    pytest.importorskip("math_verify", reason="needs the extra `catalog`")
    yield
    Worker.end_idle()


@pytest.mark.usefixtures("math_workers")
def test_math_compares_values_not_letters() -> None:
    assert reward(Math(), "0.5", "so it is $\\frac{1}{2}$") == 1.0
    assert reward(Math(), "\\frac{1}{2}", "\\boxed{0.5}") == 1.0
    assert reward(Math(prefix="Answer:"), "x+1", "Answer: $1+x$") == 1.0
    assert reward(Math(), "0.5", "I do not know") == 0.0
    assert reward(Math(), "0.5", "0.51") == 0.0


@pytest.mark.usefixtures("math_workers")
@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [("2\\sqrt{2}", "$\\sqrt{8}$", "2"), ("2x", "$x+x$", "2"), ("3\\pi", "$3\\pi$", "3")],
)
def test_a_bare_reference_is_a_formula_and_not_the_first_number_in_it(
    reference: str, right: str, wrong: str
) -> None:
    assert reward(Math(), reference, right) == 1.0
    assert reward(Math(), reference, wrong) == 0.0


@pytest.mark.usefixtures("math_workers")
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("2**10**10", "cannot be compared in 2 s: worker process ended"),
        ("9" * 5000, "9999' cannot be compared: "),
        ("$" + "(" * 2000 + "1" + ")" * 2000 + "$", ""),
    ],
)
def test_an_answer_that_math_verify_cannot_finish_is_wrong_and_not_ungraded(answer: str, why: str) -> None:
    outcome = run_async(grade_episode(Math(), Task(id="t", reference="1024"), episode(answer)))
    assert isinstance(outcome, Scored) and outcome.reward == 0.0
    assert why in outcome.evidence


@pytest.mark.usefixtures("math_workers")
@pytest.mark.parametrize("reference", ["2**10**10", "$$"])
def test_a_reference_that_math_verify_cannot_read_is_not_graded(reference: str) -> None:
    outcome = run_async(grade_episode(Math(), Task(id="t", reference=reference), episode("1024")))
    assert isinstance(outcome, Ungraded)
    assert f"BadTask: math-verify cannot read the reference {reference!r}" in outcome.reason
