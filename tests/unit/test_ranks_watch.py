"""What fails on one rank ends all of them, within seconds, with the words of the one that failed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from failing import aim_at_nothing, diverge, endings, fail_between_calls, fail_on_first, fail_on_second

from palaestra.trainer.errors import Diverged
from palaestra.trainer.recipe_file import RecipeError

Work = Callable[..., None]

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(("work", "failed"), [(fail_on_first, 0), (fail_on_second, 1)])
def test_a_failure_on_one_rank_in_a_step_ends_both_with_its_words(
    tmp_path: Path, work: Work, failed: int
) -> None:
    ends = endings(tmp_path, work)
    assert [end.code for end in ends] == [1, 1]
    for end in ends:
        assert "MemoryError: there is nothing left" in end.said
    assert f"rank {failed} failed with" in ends[1 - failed].said


def test_a_rank_that_waits_for_the_next_call_hears_of_the_failure_too(tmp_path: Path) -> None:
    first, second = endings(tmp_path, fail_between_calls)
    assert (first.code, second.code) == (1, 1)
    assert first.said.rstrip().endswith("RecipeError: grpo.steps: nothing can be done")
    assert second.said == (
        "palaestra: rank 1 ends: rank 0 failed with RecipeError: grpo.steps: nothing can be done\n"
    )


@pytest.mark.parametrize(("work", "kind"), [(aim_at_nothing, RecipeError), (diverge, Diverged)])
def test_what_all_ranks_refuse_is_said_as_by_one_alone(
    tmp_path: Path, work: Work, kind: type[Exception]
) -> None:
    first, second = endings(tmp_path, work)
    assert (first.code, second.code) == (1, 1)
    with pytest.raises(kind) as alone:
        work(None, tmp_path / "model")
    assert first.said.rstrip().endswith(f"{kind.__name__}: {alone.value}")
