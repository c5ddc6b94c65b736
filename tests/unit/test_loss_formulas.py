"""Each loss, level and correction against its formula, token by token."""

import math
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from token_terms import grad, tensor, terms
from trainer_builders import values_of

from palaestra.trainer.losses import load_loss, loss_names
from palaestra.trainer.objective.correction import Correction
from palaestra.trainer.objective.kl import KlPenalty
from palaestra.trainer.objective.objective import Objective
from palaestra.trainer.objective.terms import LossTerms, TokenTerms, mean_over, traits

RATIOS = (0.3, 0.9, 1.0, 1.4, 6.0, 0.3, 0.9, 1.0, 1.4, 6.0)
ADVANTAGES = (2.0,) * 5 + (-2.0,) * 5


def loss_and_slope(name: str, **options: Any) -> tuple[list[float], list[float]]:
    """Of each of the ratios: the loss, and its derivative by log pi over - A."""
    engine_N = torch.full((len(RATIOS),), -2.0, dtype=torch.float64)
    logprobs_N = (engine_N + tensor(*RATIOS).log()).requires_grad_()
    advantages_N = tensor(*ADVANTAGES)
    found = load_loss(name, **options)(terms(logprobs_N, advantages_N, engine_N)).loss_N
    return values_of(found), values_of(grad(found.sum(), logprobs_N) / -advantages_N)


def test_dual_clip_bounds_the_pull_of_a_bad_token_that_has_become_likely() -> None:
    plain, dual = loss_and_slope("ppo_clip"), loss_and_slope("ppo_clip", dual_clip=3.0)
    assert plain[0][:9] == pytest.approx(dual[0][:9]) and plain[1][:9] == pytest.approx(dual[1][:9])
    assert (plain[0][9], plain[1][9]) == pytest.approx((12.0, 6.0))
    assert (dual[0][9], dual[1][9]) == pytest.approx((6.0, 0.0))


@pytest.mark.parametrize("name", ["dapo", "dr_grpo", "gspo"])
def test_a_loss_that_is_ppo_with_other_defaults_is_ppo(name: str) -> None:
    options: dict[str, Any] = {"clip_low": 0.3, "clip_high": 0.35, "level": "token"}
    assert loss_and_slope(name, **options) == loss_and_slope("ppo_clip", **options)


def test_the_papers_clips_and_averages_are_the_defaults() -> None:
    clips = {name: load_loss(name) for name in ("dapo", "dr_grpo", "gspo")}
    found: dict[str, Any] = {name: (each.clip_low, each.clip_high) for name, each in clips.items()}  # type: ignore[attr-defined]  # a Protocol
    assert found == {"dapo": (0.2, 0.28), "dr_grpo": (0.2, 0.2), "gspo": (3e-4, 4e-4)}
    averages = {name: traits(load_loss(name)).aggregation for name in loss_names()}
    assert averages == {
        "cispo": "token",
        "dapo": "token",
        "dppo_tv": "token",
        "dr_grpo": "constant",
        "gspo": "episode",
        "importance_sampling": "token",
        "ppo_clip": "token",
        "sapo": "episode",
        "sft": "token",
    }


def test_cispo_bounds_the_weight_and_keeps_every_gradient() -> None:
    values, slopes = loss_and_slope("cispo", max_ratio=5.0)
    weights = [min(ratio, 5.0) for ratio in RATIOS]
    assert slopes == pytest.approx(weights)
    logprobs = [-2.0 + math.log(ratio) for ratio in RATIOS]
    expected = [-w * a * lp for w, a, lp in zip(weights, ADVANTAGES, logprobs, strict=True)]
    assert values == pytest.approx(expected)


def test_importance_sampling_weighs_by_the_ratio_up_to_a_cap_if_there_is_one() -> None:
    assert loss_and_slope("importance_sampling")[1] == pytest.approx(RATIOS)
    capped = loss_and_slope("importance_sampling", max_ratio=2.0)
    assert capped[1] == pytest.approx([min(ratio, 2.0) for ratio in RATIOS])
    assert capped[1] == pytest.approx(loss_and_slope("cispo", max_ratio=2.0)[1])


def test_sapo_weighs_by_a_bell_around_ratio_one_that_is_narrower_for_bad_tokens() -> None:
    _, slopes = loss_and_slope("sapo")
    for ratio, advantage, slope in zip(RATIOS, ADVANTAGES, slopes, strict=True):
        tau = 1.0 if advantage > 0 else 1.05
        gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
        assert slope == pytest.approx(4 * gate * (1 - gate) * ratio)
    assert slopes[2] == slopes[7] == 1.0


def test_dppo_lets_go_of_tokens_whose_probability_has_moved_too_far_away() -> None:
    old = tensor(0.001, 0.5, 0.5, 0.5, 0.5)
    now = tensor(0.003, 0.7, 0.7, 0.3, 0.3)
    advantages_N = tensor(1.0, 1.0, -1.0, 1.0, -1.0)
    logprobs_N = now.log().requires_grad_()
    found = load_loss("dppo_tv", delta=0.15)(terms(logprobs_N, advantages_N, old.log()))
    ratios = [3.0, 0.0, 1.4, 0.6, 0.0]  # a rare token may triple; a common one is let go only when it leaves
    assert values_of(found.loss_N / -advantages_N) == pytest.approx(ratios)
    assert values_of(grad(found.loss_N.sum(), logprobs_N) / -advantages_N) == pytest.approx(ratios)
    assert values_of(found.means["clip_fraction"]) == [False, True, False, False, True]


# --- levels ---

GAPS = tensor(0.1, 0.3, -0.2, 0.4, 0.5)
"""log pi - log anchor: two turns of an episode in two rows, then another episode."""
PLACES = {
    "row_N": torch.tensor([0, 0, 1, 1, 2]),
    "turn_N": torch.tensor([0, 0, 1, 1, 2]),
    "episode_N": torch.tensor([0, 0, 0, 0, 1]),
}
MEANS = {
    "token": [0.1, 0.3, -0.2, 0.4, 0.5],
    "turn": [0.2, 0.2, 0.1, 0.1, 0.5],
    "episode": [0.15] * 4 + [0.5],
}


@pytest.mark.parametrize("level", ["token", "turn", "episode"])
def test_a_ratio_is_the_geometric_mean_over_its_level(level: str) -> None:
    engine_N = tensor(-1.0, -2.0, -3.0, -4.0, -5.0)
    found = load_loss("importance_sampling", level=level)(
        terms(engine_N + GAPS, torch.ones(5, dtype=torch.float64), engine_N, **PLACES)
    )
    assert values_of(-found.loss_N) == pytest.approx([math.exp(mean) for mean in MEANS[level]])


@pytest.mark.parametrize(
    "name", ["ppo_clip", "dapo", "dr_grpo", "gspo", "cispo", "sapo", "importance_sampling"]
)
def test_a_level_that_there_is_not_is_refused_by_every_loss_that_has_one(name: str) -> None:
    """TRL's word for an episode is no level here: it would split episodes over micro-batches."""
    with pytest.raises(ValueError, match="level: 'sequence': Input should be 'token', 'turn' or 'episode'"):
        load_loss(name, level="sequence")


@dataclass(frozen=True, kw_only=True, slots=True)
class OfNoLevel:
    """A loss of somebody else's, that checks nothing."""

    level: str = "group"

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        gap_N = mean_over(tokens.logprobs_N, tokens.index(cast(Any, self.level)))
        return LossTerms(loss_N=-gap_N * tokens.advantages_N)


def test_a_level_that_there_is_not_is_refused_wherever_it_comes_from() -> None:
    engine_N = tensor(-1.0, -2.0)
    for refused in (
        lambda: load_loss(f"{__name__}:OfNoLevel"),
        lambda: OfNoLevel()(terms(engine_N, engine_N, engine_N)),
        lambda: KlPenalty(coefficient=1.0, level=cast(Any, "group")),
    ):
        with pytest.raises(ValueError, match="level is 'group'"):
            refused()


# --- correction ---


def corrected(**options: Any) -> list[float]:
    engine_N = tensor(-1.0, -2.0, -3.0, -4.0, -5.0)
    tokens = terms(engine_N + 1.0, torch.ones(5), engine_N, old_logprobs_N=engine_N + GAPS, **PLACES)
    return values_of(Correction(**options)(tokens))


def exp(*gaps: float) -> list[float]:
    return [math.exp(gap) for gap in gaps]


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"high": 1.4}, [*exp(0.1, 0.3, -0.2), 1.4, 1.4]),
        ({"kind": "mask", "low": 0.9, "high": 1.4}, [*exp(0.1, 0.3), 0.0, 0.0, 0.0]),
        ({"level": "turn", "high": 9.0}, exp(0.4, 0.4, 0.2, 0.2, 0.5)),
        ({"level": "episode", "high": 1.7}, [*[1.7] * 4, math.exp(0.5)]),
        ({"level": "episode", "kind": "mask", "high": 1.7}, [*[0.0] * 4, math.exp(0.5)]),
        ({"level": "geometric", "kind": "mask", "high": 1.2}, [*exp(*[0.15] * 4), 0.0]),
    ],
)
def test_corrections_are_of_a_token_a_turn_or_an_episode(
    options: dict[str, Any], weights: list[float]
) -> None:
    assert corrected(**options) == pytest.approx(weights)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("kind", ["mask", "truncate"])
@pytest.mark.parametrize("level", ["turn", "episode"])
def test_the_weight_of_a_long_episode_far_away_is_zero_or_the_cap_and_never_nan(
    level: Any, kind: Any, sign: float
) -> None:
    """exp(100) is inf in fp32; a second episode beside it keeps its weight."""
    gaps = torch.cat([torch.full((1000,), 0.1 * sign), torch.tensor([0.3])])
    engine_N = torch.full((1001,), -2.0)
    places = torch.tensor([0] * 1000 + [1])
    logprobs_N = (engine_N + gaps).requires_grad_()
    tokens = terms(
        logprobs_N,
        torch.ones(1001),
        engine_N,
        old_logprobs_N=engine_N + gaps,
        turn_N=places,
        episode_N=places,
    )
    correction = Correction(level=level, kind=kind, low=0.5)
    weights = values_of(correction(tokens))
    bound = 0.0 if kind == "mask" else 2.0 if sign > 0 else 0.5
    assert set(weights[:1000]) == {bound} and weights[1000] == pytest.approx(math.exp(0.3))
    loss_N = Objective(loss=load_loss("ppo_clip"), correction=correction)(tokens).loss_N
    slopes = values_of(grad(loss_N.sum(), logprobs_N))
    assert slopes == pytest.approx([-bound] * 1000 + [-math.exp(0.3)], rel=1e-4)


BEYOND: dict[str, tuple[str, dict[str, Any], float | None, float | None]] = {
    "ppo_clip": ("ppo_clip", {}, 0.0, None),
    "dual clip": ("ppo_clip", {"dual_clip": 3.0}, 0.0, 0.0),
    "of an episode": ("ppo_clip", {"level": "episode"}, 0.0, None),
    "dapo": ("dapo", {}, 0.0, None),
    "dr_grpo": ("dr_grpo", {}, 0.0, None),
    "gspo": ("gspo", {}, 0.0, None),
    "sapo": ("sapo", {}, 0.0, 0.0),
    "dppo_tv": ("dppo_tv", {}, 0.0, None),
    "importance_sampling": ("importance_sampling", {}, None, None),
    "capped": ("importance_sampling", {"max_ratio": 2.0}, -2.0, 2.0),
    "cispo": ("cispo", {"max_ratio": 2.0}, -2.0, 2.0),
}
"""Loss, options, and the slopes of two tokens whose ratio is beyond fp32, a good one and a bad one; None: any
that is finite."""


@pytest.mark.parametrize("case", BEYOND)
def test_a_ratio_beyond_fp32_is_let_go_or_bounded_and_never_nan(case: str) -> None:
    """Of a good, a bad and an indifferent token, each the only one of its episode, beside an ordinary one."""
    name, options, *slopes = BEYOND[case]
    engine_N = torch.tensor([-120.0, -120.0, -120.0, -2.0])
    logprobs_N = torch.tensor([-0.1, -0.1, -0.1, -2.0], requires_grad=True)
    tokens = terms(logprobs_N, torch.tensor([1.0, -1.0, 0.0, 1.0]), engine_N, row_N=torch.arange(4))
    found = Objective(loss=load_loss(name, **options))(tokens)
    by_logprob = values_of(grad(found.loss_N.sum(), logprobs_N))
    assert all(map(math.isfinite, [*values_of(found.loss_N), *by_logprob]))
    assert all(math.isfinite(each) for means in found.means.values() for each in values_of(means))
    assert by_logprob[2:] == pytest.approx([0.0, -1.0])
    for ours, slope in zip(by_logprob, slopes, strict=False):
        assert slope is None or ours == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("kind", ["k2", "k3"])
@pytest.mark.parametrize("level", ["token", "episode"])
def test_the_penalty_of_a_token_that_was_let_go_or_found_is_finite(kind: Any, level: Any) -> None:
    """Its ratio is 0 in fp32 and exp(-d) inf, whose product is an ordinary number; or the ratio is inf."""
    logprobs_N = torch.tensor([-150.0, -0.1, -0.1], requires_grad=True)
    anchor_N, ref_N = torch.tensor([-1.0, -150.0, -0.1]), torch.tensor([-2.0, -150.0, -150.0])
    tokens = terms(logprobs_N, torch.zeros(3), anchor_N, ref_logprobs_N=ref_N, row_N=torch.arange(3))
    kl_N = KlPenalty(coefficient=1.0, kind=kind, level=level)(tokens)
    slopes = values_of(grad(kl_N.sum(), logprobs_N))
    assert all(map(math.isfinite, [*values_of(kl_N), *slopes]))
    assert (slopes[0], slopes[2]) == pytest.approx((0.0, 149.9), abs=1e-4)  # r * d
    if kind == "k3":
        assert values_of(kl_N)[0] == pytest.approx(math.exp(-1.0))  # exp(ref - anchor); the rest is 0


@pytest.mark.parametrize("gap", [1e-4, -1e-4, 3e-3, -3e-3, 0.0, 0.7, -0.7, -30.0])
def test_k3_is_exact_in_fp32_for_small_and_for_large_gaps(gap: float) -> None:
    """exp(-d) + d - 1 is 5e-9 at d = 1e-4, and made of numbers that are rounded by 6e-8; r is exp(d) here."""
    logprobs_N = torch.tensor([gap], requires_grad=True)
    kl_N = KlPenalty(coefficient=1.0)(
        terms(logprobs_N, torch.zeros(1), torch.zeros(1), ref_logprobs_N=torch.zeros(1))
    )
    exact = float(logprobs_N.detach().double())
    expected = -math.expm1(exact) + exact * math.exp(exact)
    assert values_of(kl_N) == pytest.approx([expected], rel=3e-3)
    slope = exact * math.exp(exact)
    assert values_of(grad(kl_N.sum(), logprobs_N)) == pytest.approx([slope], rel=1e-5, abs=1.2e-7)


@pytest.mark.parametrize("options", [{"high": 0.9}, {"low": 1.1}, {"level": "row"}, {"kind": "clip"}])
def test_a_correction_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs 0 <= low|level is one of"):
        Correction(**options)


def test_what_nobody_sampled_is_not_corrected_and_what_the_engine_anchors_has_nothing_to_correct() -> None:
    engine_N = tensor(-1.0, -2.0)
    tokens = terms(engine_N, torch.ones(2), engine_N, old_logprobs_N=engine_N + 0.5)
    sft = Objective(loss=load_loss("sft"))(tokens)
    assert values_of(sft.loss_N) == [1.0, 2.0] and "correction" not in sft.means
    anchored = Objective(loss=load_loss("ppo_clip"))(terms(engine_N, torch.ones(2), engine_N))
    assert "correction" not in anchored.means


def test_the_parts_of_an_objective_add_up() -> None:
    def tokens() -> TokenTerms:
        engine_N = tensor(-1.0, -2.0)
        more = {"ref_logprobs_N": engine_N - 0.3, "entropy_N": tensor(0.5, 0.25)}
        return terms(engine_N + 0.2, tensor(1.0, -1.0), engine_N, old_logprobs_N=engine_N + 0.1, **more)

    loss = load_loss("importance_sampling")
    whole = Objective(loss=loss, kl=KlPenalty(coefficient=2.0), entropy_bonus=4.0)(tokens())
    plain = Objective(loss=loss)(tokens())
    kl_N = values_of(whole.means["kl_penalty"])
    expected = [
        value + 2.0 * kl - 4.0 * entropy
        for value, kl, entropy in zip(values_of(plain.loss_N), kl_N, (0.5, 0.25), strict=True)
    ]
    assert values_of(whole.loss_N) == pytest.approx(expected)
    assert kl_N[0] == pytest.approx(math.exp(0.2) * (math.exp(-0.5) + 0.5 - 1))  # 0.1 of it is the correction
