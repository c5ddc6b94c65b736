"""Sampling by seed and position."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.agents.engines.sampler import sample, uniforms


def draw(logits: list[float], count: int, *, temperature: float = 1.0, top_p: float = 1.0) -> np.ndarray:
    numbers = uniforms(np.arange(count, dtype=np.uint64), np.full(count, 7))
    rows = torch.tensor(logits).expand(count, -1)
    sampled = sample(rows, np.full(count, temperature), np.full(count, top_p), numbers)
    return np.stack([sampled.ids_R, sampled.logprobs_R])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_come_as_often_as_the_softmax_says(temperature: float) -> None:
    logits = [0.0, 1.0, 2.0, -1.0, -40.0]
    expected = torch.softmax(torch.tensor(logits) / temperature, dim=0).numpy()
    ids, logprobs = draw(logits, 40_000, temperature=temperature)
    counts = np.bincount(ids.astype(int), minlength=5)
    # Five standard deviations of a binomial: fixed seeds make this exact, the bound makes it fair.
    assert np.all(np.abs(counts / 40_000 - expected) < 5 * np.sqrt(expected / 40_000) + 1e-9)
    assert logprobs == pytest.approx(np.log(expected)[ids.astype(int)], abs=1e-5)


def test_temperature_zero_takes_the_maximum() -> None:
    ids, logprobs = draw([0.0, 3.0, 1.0], 100, temperature=0.0)
    assert set(ids) == {1}
    assert logprobs == pytest.approx(float(torch.log_softmax(torch.tensor([0.0, 3.0, 1.0]), 0)[1]), abs=1e-6)


def test_top_p_keeps_the_nucleus_and_reports_its_distribution() -> None:
    shares = [0.5, 0.3, 0.15, 0.05]
    ids, logprobs = draw(np.log(shares).tolist(), 20_000, top_p=0.7)
    assert set(ids) == {0, 1}
    assert logprobs == pytest.approx(np.log([0.625, 0.375])[ids.astype(int)], abs=1e-5)
    assert np.mean(ids == 0) == pytest.approx(0.625, abs=0.02)


@given(st.integers(0, 2**64 - 1), st.integers(0, 100_000))
def test_numbers_are_in_range_and_differ_by_seed_and_position(seed: int, position: int) -> None:
    seeds = np.array([seed, seed, (seed + 1) % 2**64], np.uint64)
    found = uniforms(seeds, np.array([position, position + 1, position]))
    assert ((found >= 0) & (found < 1)).all()
    assert len(set(found.tolist())) == 3
