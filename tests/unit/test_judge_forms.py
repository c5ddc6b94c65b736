"""What a judge is asked: votes, checklists, and which of two answers is better."""

from typing import Any

import pytest
from chat_endpoint import Answer
from judging import GRADES, SUM, judged, verdict, writes
from support import run_async

from palaestra.envs import Scored, Task
from palaestra.envs.graders import Grader
from palaestra.envs.graders.judge import Checklist, Criterion, Judge, JudgeModel, PairJudge

WARM = {"temperature": 0.7, "max_tokens": 100}


@pytest.mark.parametrize(
    ("combine", "scores", "reward"),
    [("mean", (3, 1, 2), 0.5), ("majority", (3, 1, 3), 1.0), ("majority", (1, 2, 3), None)],
)
def test_votes_are_seeded_samples_and_are_counted_together(
    combine: Any, scores: tuple[int, ...], reward: float | None
) -> None:
    by_seed = dict(enumerate(scores))
    found = judged(
        writes(lambda asked: verdict(asked, score=by_seed[asked.payload["seed"]])),
        make=lambda model: Judge(model=model, form=GRADES, votes=3, combine=combine),
        options=WARM,
    )
    assert len(found.questions) == 3
    if reward is None:
        assert "have no majority" in found.reason
    else:
        assert found.reward == reward


def test_votes_that_would_all_be_the_same_are_refused() -> None:
    model = JudgeModel("http://127.0.0.1:1/v1", "m")
    with pytest.raises(ValueError, match="votes=3 at temperature 0"):
        Judge(model=model, form=GRADES, votes=3)
    with pytest.raises(ValueError, match="votes=0"):
        PairJudge(model=model, votes=0)


CRITERIA = (
    Criterion(name="right", asks="Is it right?", weight=3.0),
    Criterion(name="short", asks="Is it short?"),
    Criterion(name="rude", asks="Is it rude?", weight=-2.0),
)


@pytest.mark.parametrize(
    ("met", "reward"),
    [
        ((True, True, False), 1.0),
        ((True, False, False), 0.75),
        ((True, True, True), 0.5),
        ((False, True, True), 0),
    ],
)
def test_a_checklist_is_weighed_and_each_criterion_kept(met: tuple[bool, ...], reward: float) -> None:
    answers = dict(zip(("right", "short", "rude"), met, strict=True))
    found = judged(
        writes(lambda asked: verdict(asked, **answers)),
        make=lambda model: Judge(model=model, form=Checklist(criteria=CRITERIA)),
    )
    (outcome,) = found.outcomes
    assert isinstance(outcome, Scored)
    assert (outcome.reward, outcome.components) == (
        reward,
        {name: float(met) for name, met in answers.items()},
    )


def test_a_checklist_with_an_answer_missing_or_a_word_for_it_gives_no_number() -> None:
    def make(model: JudgeModel) -> Grader:
        return Judge(model=model, form=Checklist(criteria=CRITERIA))

    assert (
        "'rude' is a required"
        in judged(writes(lambda asked: verdict(asked, right=True, short=True)), make=make).reason
    )
    assert (
        "'yes' is not of type 'boolean'"
        in judged(writes(lambda asked: verdict(asked, right="yes", short=True, rude=False)), make=make).reason
    )


@pytest.mark.parametrize(
    ("criteria", "problem"),
    [
        ((), "at least one"),
        ((CRITERIA[2],), "at least one"),
        ((CRITERIA[0], CRITERIA[0]), "a name of its own"),
    ],
)
def test_a_checklist_that_nobody_could_earn_or_read_is_refused(
    criteria: tuple[Criterion, ...], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        Checklist(criteria=criteria)
    with pytest.raises(ValueError, match="is letters, digits"):
        Criterion(name="is it right?", asks="")


def prefers(text: str) -> Answer:
    """The answer with that text, wherever it stands."""
    return writes(lambda asked: verdict(asked, winner="A" if text in asked.sections["ANSWER A"] else "B"))


def pair(model: JudgeModel) -> Grader:
    return PairJudge(model=model)


def test_a_pair_is_asked_in_both_orders_and_the_better_answer_wins() -> None:
    found = judged(prefers("four"), answers=("It is four.",), make=pair)
    assert found.reward == 1.0
    shown = [(asked.sections["ANSWER A"], asked.sections["ANSWER B"]) for asked in found.questions]
    assert sorted(shown) == [("4", "It is four."), ("It is four.", "4")]
    assert judged(prefers("4"), answers=("It is four.",), make=pair).reward == 0.0
    tie = writes(lambda asked: verdict(asked, winner="tie"))
    assert judged(tie, answers=("It is four.",), make=pair).reward == 0.5


def test_a_judge_that_prefers_a_place_is_a_tie_or_no_number() -> None:
    first = writes(lambda asked: verdict(asked, winner="A"))
    assert judged(first, answers=("four",), make=pair).reward == 0.5
    strict = judged(
        first, answers=("four",), make=lambda model: PairJudge(model=model, on_disagreement="raise")
    )
    assert "the winner changed with the order of the answers: 1, 0" in strict.reason
    once = judged(first, answers=("four",), make=lambda model: PairJudge(model=model, swaps=False))
    assert once.reward == 1.0 and len(once.questions) == 1


def test_of_answers_that_say_nothing_or_the_same_nobody_is_asked() -> None:
    async def main() -> list[float]:
        judge = PairJudge(model=JudgeModel("http://127.0.0.1:1/v1", "m", max_retries=0))
        pairs = [(":", "4"), ("4", ""), ("...", ":"), ("4", "4")]
        return [await judge.compare("What is 2 + 2?", *each) for each in pairs]

    assert run_async(main()) == [0.0, 1.0, 0.5, 0.5]


def test_a_pair_without_a_reference_has_no_number() -> None:
    task = Task(id="sum", messages=SUM.messages)
    assert "'sum' has no reference" in judged(prefers("4"), task=task, make=pair).reason
