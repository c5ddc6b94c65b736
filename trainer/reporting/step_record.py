"""What the run file keeps of an optimizer step, and how to tell what was altered since.

A loss is made of a few numbers for each trained token. What cannot be computed again from the episodes has a
digest: a loss that differs names no row, and of a token that was clipped it does not even differ.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..batches.rows import Batch, Row
from .reports import LossReport


def update_record(batch: Batch, report: LossReport, *, with_entropy: bool) -> dict[str, Any]:
    """Enough to compute the loss again without the model."""
    return {
        "value": report.loss,
        "aggregation": batch.normaliser.aggregation.value,
        "is_fresh": batch.is_fresh,
        "rows": [
            _row_record(row, report.logprobs[at], report.entropies[at] if with_entropy else None)
            for at, row in enumerate(batch.rows)
        ],
    }


def sft_record(value: float, rows: Sequence[Row], logprobs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The same of demonstrations; `logprobs`: [rows][T]."""
    found = [values[at] for row, values in zip(rows, logprobs, strict=True) for at in row.trained]
    return {
        "value": value,
        "keys": [row.key.columns for row in rows],
        "logprobs": found,
        "digests": {"logprobs": digest(found)},
    }


def altered(stored: Mapping[str, Any], row: Row | None = None) -> Iterator[str]:
    """What is not as it was when the step was taken: in its record, and in the episode that `row` is of."""
    digests: Mapping[str, str] = stored.get("digests", {})  # run files of before had none
    of_episode = {} if row is None else _of_episode(row)
    for name, expected in digests.items():
        if name in of_episode:
            if digest(of_episode[name]) != expected:
                yield f"{name} of the episode are not those that were trained"
        elif digest(stored.get(name)) != expected:
            yield f"{name} in the record are not those that were written"


def digest(values: Sequence[float] | None) -> str:
    """16 hexadecimal digits, the same for what JSON makes of the values.

    >>> digest((0.5, -1)) == digest([0.5, -1]) != digest([0.5, -2])
    True
    """
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()


def _row_record(row: Row, logprobs: Sequence[float], entropies: Sequence[float] | None) -> dict[str, Any]:
    """Per-token values only where the mask is True."""
    trained = row.trained

    def cut(values: Sequence[float] | None) -> list[float] | None:
        return None if values is None else [values[at] for at in trained]

    learned = {
        "logprobs": cut(logprobs),
        "old_logprobs": cut(row.old_logprobs),
        "ref_logprobs": cut(row.ref_logprobs),
    }
    if entropies is not None:
        learned["entropies"] = cut(entropies)
    return {
        "key": row.key.columns,
        "positions": trained,
        "advantages": cut(row.advantages),
        **learned,
        "digests": {name: digest(values) for name, values in {**learned, **_of_episode(row)}.items()},
    }


def _of_episode(row: Row) -> dict[str, Sequence[float]]:
    """What a step takes from an episode beside its mask and its reward, which a replay compares."""
    tokens = row.tokens
    return {"tokens": tokens.ids, "engine_logprobs": tokens.logprobs, "versions": tokens.versions}
