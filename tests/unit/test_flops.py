"""What a training pass computes, against torch's own counter, and what is known of devices."""

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch.utils.flop_counter import FlopCounterMode
from trainer_builders import make_group, make_learner, make_llama_learner, make_row, random_rows
from trainer_gpu import measure_one

from palaestra.trainer.advantages import credit
from palaestra.trainer.batches.attention import Layout
from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.reporting.flops import Shape, known_peak, peak_of, shape_of
from palaestra.trainer.reporting.reports import merge_reports
from palaestra.trainer.reporting.speed import Speed
from palaestra.trainer.update import Updater

ATTENTION = ("attention", "bmm")


def counted(learner: Learner, batch: Any) -> tuple[int, int]:
    """Operations of linear layers, and of attention, that torch sees in a pass."""
    with FlopCounterMode(display=False) as counter:
        learner.forward_backward(batch)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(number for op, number in counts.items() if not any(word in str(op) for word in ATTENTION))
    return linear, sum(counts.values()) - linear


@pytest.mark.parametrize("make", [make_learner, make_llama_learner])
def test_the_operations_of_linear_layers_are_those_that_torch_counts(make: Any) -> None:
    learner, batch = make(), make_batch(random_rows(5))
    shape = shape_of(learner.model)
    assert shape is not None
    linear, _ = counted(learner, batch)
    tokens = sum(row.trained_until for row in batch.rows)
    trained = batch.normaliser.num_tokens
    in_place = (
        2 * shape.head * trained
    )  # the gradient of the head's weights, by `addmm_`: torch does not count it
    assert shape.flops(num_tokens=tokens, num_pairs=0, num_trained=trained) == linear + in_place


def test_an_adapter_leaves_out_the_gradients_of_frozen_weights() -> None:
    learner = make_llama_learner(LearnerConfig(lora=LoraConfig(rank=3)))
    batch = make_batch(random_rows(5))
    linear, _ = counted(learner, batch)
    reported = learner.forward_backward(batch)
    assert reported.flops is not None
    tokens = sum(row.trained_until for row in batch.rows)
    bare = Shape(body=0, head=0, attention=2 * 64).flops(
        num_tokens=0,
        num_pairs=sum(n.trained_until * (n.trained_until + 1) // 2 for n in batch.rows),
        num_trained=0,
    )
    # Nobody needs the gradient of frozen embeddings: what goes back through the first layers is less.
    assert 0 <= reported.flops - bare - linear <= 2 * tokens * 64 * (4 * 32 + 2 * 32 + 2 * 32 + 3 * 3)


def test_attention_is_of_the_pairs_that_a_row_sees() -> None:
    def by_hand(layout: Layout) -> int:
        return sum(
            sum(end - start for start, end in spans) - own + at + 1
            for spans, own in zip(layout.spans, layout.lengths, strict=True)
            for at in range(own)
        )

    for spans in ((((0, 6),), ((6, 9),)), (((0, 6),), ((0, 3), (6, 8)), ((8, 11),))):
        layout = Layout(spans=spans)
        assert layout.num_pairs == by_hand(layout)
    shape = Shape(body=0, head=0, attention=10)
    assert shape.flops(num_tokens=4, num_pairs=10, num_trained=0) == 12 * 10 * 10


def test_a_shared_prefix_is_read_and_counted_once() -> None:
    rows = [make_row([*range(8), last], [False] * 8 + [True], sample=last) for last in (9, 10)]
    alone = make_llama_learner().forward_backward(make_batch(rows))
    shared = make_llama_learner(LearnerConfig(share_prefixes_from=2)).forward_backward(make_batch(rows))
    assert (alone.num_inputs, shared.num_inputs) == (16, 9)
    assert alone.flops is not None and shared.flops is not None and shared.flops < 0.7 * alone.flops


def test_models_whose_arithmetic_is_another_one_have_no_figure() -> None:
    model = tiny_model("qwen3")
    assert shape_of(model) is not None
    model.config.layer_types = ["sliding_attention"] * 2
    assert shape_of(model) is None
    other = tiny_model("qwen2")
    other.config.num_experts = 8
    assert shape_of(other) is None


def test_ranks_add_up_and_one_that_does_not_know_leaves_the_sum_unknown() -> None:
    parts = [make_llama_learner().forward_backward(make_batch(random_rows(2))) for _ in range(2)]
    places = [range(len(part.logprobs)) for part in parts]
    places[1] = range(len(places[0]), 2 * len(places[0]))
    whole = merge_reports(parts, places)
    assert whole.flops == 2 * (parts[0].flops or 0) and whole.num_inputs == 2 * parts[0].num_inputs
    unknown = [parts[0], replace(parts[1], flops=None)]
    assert merge_reports(unknown, places).flops is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("NVIDIA RTX A1000 Laptop GPU", None),
        ("NVIDIA H20", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_peak_is_known_by_the_whole_name_or_not_at_all(name: str, peak: float | None) -> None:
    assert known_peak(name) == peak


def test_a_processor_has_the_peak_that_it_is_given_and_none_otherwise() -> None:
    assert peak_of(torch.device("cpu"), "bfloat16") is None
    assert peak_of(torch.device("cpu"), "float32", given=2.5) == 2.5e12


def test_utilisation_is_reported_where_model_and_peak_are_known() -> None:
    report = make_llama_learner().forward_backward(make_batch(random_rows(3)))
    assert report.flops is not None
    speed = Speed(seconds=2.0, reports=[report, report])
    known = speed.metrics(peak=10 * report.flops)
    assert known["mfu"] == pytest.approx(0.1) and known["flops_per_s"] == report.flops
    assert known["tokens_per_s"] == report.num_inputs
    assert "mfu" not in speed.metrics()
    strange = replace(report, flops=None)
    assert {"mfu", "flops_per_s"}.isdisjoint(Speed(seconds=2.0, reports=[report, strange]).metrics(peak=1.0))
    assert Speed().metrics() == {}


def test_a_step_of_a_run_says_how_fast_it_was() -> None:
    accepted = credit(make_group(1.0, 0.0, 0.25, 0.0, 1.0)).accepted
    section = GrpoSection(updates_per_step=2)
    for peak in (None, 1e12):
        updater = Updater(learner=make_llama_learner(), section=section, peak_flops=peak)
        found = updater.update(accepted).metrics
        assert found["flops_per_s"] > 0 and ("mfu" in found) == (peak is not None)
    assert found["mfu"] == pytest.approx(found["flops_per_s"] / 1e12)
    assert found["trained_tokens"] == sum(each.trajectory.graph.num_sampled for each in accepted)


@pytest.mark.parametrize("is_adapter", [True, False])
def test_the_benchmark_of_a_gpu_says_what_a_run_would_say(is_adapter: bool) -> None:
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    found = measure_one(sizes, is_adapter=is_adapter, device="cpu", pack=64, row=16)
    assert {"tokens_per_s", "trained_tokens_per_s", "flops_per_s", "train_s"} == found.keys()
    body = 32 * 16 * (2 * 2 + 2 * 1) + 3 * 32 * 64
    tokens = found["tokens_per_s"] * found["train_s"]
    assert 4 * 12 <= tokens <= 4 * 15
    assert found["flops_per_s"] * found["train_s"] > (4 if is_adapter else 6) * body * tokens


def test_looking_at_rows_takes_what_torch_counts_without_a_gradient() -> None:
    learner, rows = make_llama_learner(), random_rows(5)
    with FlopCounterMode(display=False) as counter:
        learner.logprobs(rows)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(number for op, number in counts.items() if not any(word in str(op) for word in ATTENTION))
    shape = shape_of(learner.model)
    assert shape is not None
    tokens, trained = sum(row.trained_until for row in rows), sum(len(row.trained) for row in rows)
    assert linear == shape.flops(num_tokens=tokens, num_pairs=0, num_trained=trained, has_gradient=False)


def test_what_the_reference_and_the_policy_before_say_is_in_the_seconds_and_the_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accepted = credit(make_group(1.0, 0.0, 0.25, 0.0)).accepted  # two updates of two rows of one length

    def spent(**options: Any) -> tuple[float, float]:
        learner = make_llama_learner()
        look = learner.reference_logprobs

        def slow(rows: Any) -> Any:
            time.sleep(0.1)
            return look(rows)

        monkeypatch.setattr(learner, "reference_logprobs", slow)
        section = GrpoSection.model_validate({"updates_per_step": 2} | options)
        found = Updater(learner=learner, section=section).update(accepted).metrics
        return found["train_s"], found["flops_per_s"] * found["train_s"]

    _, trained = spent(old_policy="engine")  # 3 units of each update: forward, and twice that backward
    seconds, looked = spent(old_policy="engine", reference=True)
    assert seconds >= 0.2 and looked == pytest.approx(trained * 8 / 6)
    _, both = spent(reference=True)
    assert both == pytest.approx(trained * 9 / 6)
