"""When training stops for good: what counts as better, and what a restart makes of it."""

from pathlib import Path

import pytest

from palaestra.agents.ledger import Ledger
from palaestra.trainer.early_stopping import Scores, find_stall
from palaestra.trainer.recipe import EarlyStoppingSection


@pytest.mark.parametrize(
    ("scores", "patience", "min_delta", "stops_at"),
    [
        ([0.1, 0.2, 0.3, 0.4], 1, 0.0, None),
        ([0.1, 0.1], 1, 0.0, 1),
        ([0.5, 0.4, 0.3], 2, 0.0, 2),
        ([0.5, 0.4, 0.6, 0.5, 0.55, 0.5], 3, 0.0, 5),
        ([0.5, 0.55, 0.6, 0.65], 2, 0.1, 2),  # each is better than the one before, none by enough
        ([0.5, 0.58, 0.66, 0.7], 2, 0.1, None),  # the second is, by what was not enough at first
        ([-3.0, -2.0, -2.5, -2.5], 2, 0.0, 3),
        ([0.5], 1, 0.0, None),
        ([], 1, 0.0, None),
    ],
)
def test_a_run_stops_when_patience_is_over(
    scores: list[float], patience: int, min_delta: float, stops_at: int | None
) -> None:
    by_step = {10 * at: score for at, score in enumerate(scores)}
    for length in range(len(scores) + 1):  # it is asked after each evaluation
        known = dict(list(by_step.items())[:length])
        stall = find_stall(known, patience, min_delta)
        assert (stall is not None) == (stops_at is not None and length > stops_at)
        assert stall is None or stall.step == 10 * (stops_at or 0)


def test_the_reason_names_the_best_evaluation_and_what_was_asked() -> None:
    stall = find_stall({0: 0.25, 5: 0.5, 10: 0.5, 15: 0.4}, 2, 0.01)
    assert str(stall) == (
        "stopped early at step 15: 2 evaluations in a row were not over the 0.500 of step 5 by more than 0.01"
    )


def test_scores_are_in_the_run_file_and_those_of_a_later_time_do_not_count(tmp_path: Path) -> None:
    section = EarlyStoppingSection(patience=1)
    with Ledger(tmp_path) as ledger:
        for step, score in ((0, 0.5), (10, 0.6), (20, 0.6)):
            Scores(ledger).add(step, score)
    with Ledger(tmp_path) as ledger:
        scores = Scores(ledger)
        stall = scores.stall(20, section)
        assert stall is not None and (stall.step, stall.best_step) == (20, 10)
        assert scores.stall(10, section) is None  # gone back to an older checkpoint
        scores.add(20, 0.7)
        assert scores.stall(20, section) is None
