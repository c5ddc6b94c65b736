"""Loss and gradient of every loss do not depend on how rows are laid out; what must fail, does."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from trainer_builders import (
    Found,
    found_by,
    gradients,
    make_learner,
    make_row,
    on_policy,
    random_rows,
    sibling_rows,
)

from palaestra.trainer.batches.packing import micro_batches
from palaestra.trainer.batches.rows import Aggregation, Row, make_batch, split_batch
from palaestra.trainer.config import LearnerConfig
from palaestra.trainer.losses import loss_names
from palaestra.trainer.objective.correction import Correction
from palaestra.trainer.objective.kl import KlPenalty

LAYOUTS = [
    *({"loss": loss} for loss in loss_names()),
    {"loss": "ppo_clip", "level": "turn"},
    {"loss": "ppo_clip", "level": "episode", "kl": KlPenalty(coefficient=0.3, level="episode")},
    {"loss": "ppo_clip", "correction": Correction(level="episode")},
    {"loss": "cispo", "correction": Correction(level="geometric", kind="mask", low=0.9, high=1.1)},
    {"loss": "sapo", "entropy_bonus": 0.1},
    {"loss": "dr_grpo", "kl": KlPenalty(coefficient=0.3, kind="k2")},
]


def found(
    rows: Sequence[Row],
    options: dict[str, Any],
    aggregation: str = "token",
    *,
    budget: int = 10**6,
    chunk: int | None = None,
    share_from: int | None = None,
) -> Found:
    config = LearnerConfig(micro_batch_tokens=budget, logit_chunk=chunk, share_prefixes_from=share_from)
    learner = make_learner(config)
    max_tokens = 20 if aggregation == "constant" else None
    return found_by(learner, make_batch(rows, aggregation, max_tokens=max_tokens), **options)


def counted(rows: Sequence[Row]) -> list[Row]:
    """With the trained tokens that each episode has now."""
    sizes = Counter(dict.fromkeys((row.key for row in rows), 0))
    for row in rows:
        sizes[row.key] += sum(row.tokens.mask)
    return [replace(row, episode_tokens=sizes[row.key]) for row in rows]


def wobbled(rows: Sequence[Row]) -> list[Row]:
    """Engine, old and reference policies a bit elsewhere; an episode's tokens get the same, in any rows."""
    changed: list[Row] = []
    for row in on_policy(make_learner(), rows):
        values = list(row.tokens.logprobs)

        def near(name: str, row: Row = row, values: list[float] = values) -> tuple[float, ...]:
            return tuple(
                value + random.Random(f"{name}/{row.key}/{row.tokens.ids[: at + 1]}").uniform(-0.3, 0.3)
                for at, value in enumerate(values)
            )

        tokens = replace(row.tokens, logprobs=near("engine"))
        changed.append(replace(row, tokens=tokens, old_logprobs=near("old"), ref_logprobs=near("ref")))
    return changed


ROWS = wobbled(
    [
        replace(row, key=replace(row.key, task_id=f"t{row.key.sample % 2}"))
        for row in random_rows(7, longest=16)
    ]
)


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_order_and_micro_batches_do_not_matter(options: dict[str, Any]) -> None:
    whole = found(ROWS, options)
    assert whole.gap(found(ROWS[::-1], options)) <= 1e-12
    for budget in (1, 40):
        assert whole.gap(found(ROWS, options, budget=budget)) <= 1e-12


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_what_goes_through_the_head_together_does_not_matter(options: dict[str, Any]) -> None:
    """A row is cut wherever a chunk ends, unless the loss looks further than a token."""
    assert found(ROWS, options).gap(found(ROWS, options, chunk=3)) <= 1e-12


SIBLINGS = wobbled(sibling_rows(2, 4))


@pytest.mark.parametrize(
    "options", [*LAYOUTS, {"loss": "ppo_clip", "kl": KlPenalty(coefficient=0.3)}], ids=str
)
def test_prefixes_that_are_computed_once_do_not_matter(options: dict[str, Any]) -> None:
    alone = found(SIBLINGS, options, budget=1)
    for budget in (40, 10**6):
        assert alone.gap(found(SIBLINGS, options, budget=budget, share_from=1)) <= 1e-12


def test_prefixes_are_there_to_be_computed_once() -> None:
    plain, shared = (micro_batches(SIBLINGS, 10**6, torch.device("cpu"), share_from=n)[0] for n in (None, 1))
    assert len(shared.inputs_T) < 0.7 * len(plain.inputs_T)


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize("loss", ["ppo_clip", "gspo"])
def test_parts_of_a_step_add_up_under_one_normaliser_and_not_under_their_own(
    loss: str, aggregation: Aggregation
) -> None:
    max_tokens = 20 if aggregation is Aggregation.CONSTANT else None
    learner, batch = make_learner(), make_batch(ROWS, aggregation, max_tokens=max_tokens)
    whole = found(ROWS, {"loss": loss}, aggregation.value)
    parts = split_batch(batch, 3)
    losses = [learner.forward_backward(part, loss).loss for part in parts]
    assert whole.gap(Found(sum(losses), gradients(learner))) <= 1e-12
    assert whole.gap(found(ROWS[::-1], {"loss": loss}, aggregation.value, budget=1)) <= 1e-12

    own = [make_batch(part.rows, aggregation, max_tokens=max_tokens) for part in parts]
    losses = [learner.forward_backward(part, loss).loss / 3 for part in own]
    assert whole.gap(Found(sum(losses), gradients(learner) / 3)) > 1e-3


IDS, MASK = [5, 6, 7, 8, 9, 10, 11, 12, 13], [False, False, True, True, False, True, True, False, True]


FORKED = [
    (options, aggregation)
    for options in LAYOUTS
    for aggregation in Aggregation
    if aggregation is Aggregation.TURN or options in ({"loss": "ppo_clip"}, {"loss": "gspo"})
]


@pytest.mark.parametrize(("options", "aggregation"), FORKED, ids=str)
def test_an_episode_in_three_rows_is_the_episode_in_one(
    options: dict[str, Any], aggregation: Aggregation
) -> None:
    other = make_row([1, 2, 3, 4], [False, True, False, True], sample=1, advantage=-2.0)
    one = make_row(IDS, MASK)
    forked = [
        make_row(IDS[:4], MASK[:4], episode_tokens=5),
        make_row(IDS[:7], [False] * 4 + MASK[4:7], episode_tokens=5),
        make_row(IDS, [False] * 7 + MASK[7:], episode_tokens=5),
    ]
    plain = found(wobbled([one, other]), options, aggregation.value)
    for budget in (1, 10**6):
        assert plain.gap(found(wobbled([*forked, other]), options, aggregation.value, budget=budget)) <= 1e-12
    twice = counted([forked[0], one, other])
    assert plain.gap(found(wobbled(twice), options, aggregation.value)) > 1e-3, (
        "a token that is trained twice"
    )


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_a_mask_of_all_ones_and_tokens_that_were_encoded_again_are_seen(options: dict[str, Any]) -> None:
    right = found(ROWS, options)
    all_ones = [
        replace(
            row,
            tokens=replace(row.tokens, mask=(False, *(True for _ in row.tokens.ids[1:]))),
            advantages=(max(row.advantages, key=abs),) * len(row.tokens.ids),
            turns=(),
        )
        for row in ROWS
    ]
    assert right.gap(found(counted(all_ones), options)) > 1e-3
    again = [
        replace(row, tokens=replace(row.tokens, ids=(*row.tokens.ids[:-1], (row.tokens.ids[-1] + 1) % 97)))
        for row in ROWS
    ]
    assert right.gap(found(again, options)) > 1e-3


@pytest.mark.parametrize("level", ["token", "turn", "episode"])
def test_on_a_fresh_batch_the_learners_own_logprobs_are_the_old_ones(level: str) -> None:
    learner = make_learner()
    own = [replace(row, old_logprobs=old) for row, old in zip(ROWS, learner.logprobs(ROWS), strict=True)]
    report = learner.forward_backward(make_batch(ROWS, is_fresh=True), level=level)
    assert report.metrics["ratio"] == report.metrics["ratio_max"] == 1.0
    assert report.metrics["clip_fraction"] == 0.0 and report.metrics["correction"] != 1.0
    fresh = Found(report.loss, gradients(learner))
    assert fresh.gap(found(own, {"level": level})) <= 1e-12


def test_rows_of_one_episode_share_a_micro_batch_where_a_loss_looks_that_far() -> None:
    micros = micro_batches(ROWS, 1, torch.device("cpu"), level="episode")
    keys = [{ROWS[row].key for row, _ in micro.trained.where} for micro in micros]
    assert [len(each) for each in keys] == [1] * len({row.key for row in ROWS})
    assert len(micros) < len(micro_batches(ROWS, 1, torch.device("cpu")))


def test_a_weight_scales_the_gradient_and_calls_add_up() -> None:
    learner, batch = make_learner(), make_batch(ROWS)
    learner.forward_backward(batch, "sft")
    sft = gradients(learner)
    learner.forward_backward(batch, "ppo_clip")
    ppo = gradients(learner)
    learner.forward_backward(batch, "ppo_clip")
    learner.forward_backward(batch, "sft", weight=0.25)
    assert float((gradients(learner) - ppo - 0.25 * sft).abs().max()) <= 1e-12
