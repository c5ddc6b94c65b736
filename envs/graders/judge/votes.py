"""Several samples of one verdict."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from .model import JudgeError, JudgeModel

Combine = Literal["mean", "majority"]


def check_votes(model: JudgeModel, votes: int) -> None:
    """Raises `ValueError` for a number of votes that says no more than one."""
    if votes < 1:
        raise ValueError(f"votes={votes}: it must be 1 or more")
    if votes > 1 and model.options.get("temperature") == 0:
        raise ValueError(
            f"votes={votes} at temperature 0 asks the same {votes} times; "
            'give the JudgeModel options={"temperature": 0.7, "max_tokens": 1024}'
        )


def numbers_of(votes: int) -> Sequence[int | None]:
    """Of each sample: one alone needs no seed."""
    return [None] if votes == 1 else range(votes)


def combined(samples: Sequence[Mapping[str, float]], how: Combine) -> dict[str, float]:
    """Each part over the samples. Raises `JudgeError` where no value has the most votes.

    >>> combined([{"score": 1.0}, {"score": 0.5}, {"score": 1.0}], "majority")
    {'score': 1.0}
    """
    merge = fmean if how == "mean" else _most_frequent
    return {name: merge([sample[name] for sample in samples]) for name in samples[0]}


def _most_frequent(values: Sequence[float]) -> float:
    counts = Counter(values).most_common(2)
    if len(counts) == 2 and counts[0][1] == counts[1][1]:
        raise JudgeError(f"the votes {sorted(values)} have no majority; ask an odd number, or take the mean")
    return counts[0][0]
