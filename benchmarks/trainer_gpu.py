"""The GPU side of `trainer.py`: tokens/s and MFU on 16k-token packs, Qwen3 shapes with random weights, bf16.

Each figure is what a run would report of such a step (`speed.py`, `flops.py`), the median of a few.
"""

import random
import statistics
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from trainer_contestants import VOCAB, make_row

from palaestra.trainer.batches.rows import Batch, make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.reporting.flops import peak_of
from palaestra.trainer.reporting.speed import Speed

PACK, ROW, TRAINED = 16_384, 2_048, 0.5
STEPS = 5
BARS = {
    "Qwen3-4B LoRA r16: tokens_per_s": 6_200.0,
    "Qwen3-4B LoRA r16: mfu": 0.217,
    "Qwen3-0.6B LoRA r16: tokens_per_s": 13_300.0,
}
"""At least so much on one H100."""
COMMON: Mapping[str, int] = {"vocab_size": VOCAB, "num_key_value_heads": 8, "head_dim": 128}
MODELS: Mapping[str, Mapping[str, int]] = {
    "Qwen3-0.6B": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "Qwen3-1.7B": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "Qwen3-4B": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
    },
}
"""As their configurations have it."""
ROOM = 70e9
"""Bytes for weights, gradients and AdamW: what an 80 GB device has left of them."""


def make_model(sizes: Mapping[str, int], dtype: torch.dtype, device: str) -> Any:
    make_config: Any = transformers.Qwen3Config
    config = make_config(**{**COMMON, **sizes}, tie_word_embeddings=True, attn_implementation="sdpa")
    model: Any = transformers.Qwen3ForCausalLM
    with torch.device(device):
        return model(config).to(dtype)


def make_pack(vocab: int, tokens: int, row: int) -> Batch:
    draw = random.Random(0)
    rows = [
        make_row(
            [draw.randrange(vocab) for _ in range(row)],
            [False, *(draw.random() < TRAINED for _ in range(row - 1))],
            advantage=1.0 if sample % 2 else -0.9,
            sample=sample,
        )
        for sample in range(tokens // row)
    ]
    return make_batch(rows)


def measure_one(
    sizes: Mapping[str, int], *, is_adapter: bool, device: str, pack: int = PACK, row: int = ROW
) -> dict[str, float]:
    """Speed and memory of one configuration; "mfu" where the device's peak is known."""
    config = LearnerConfig(
        lora=LoraConfig(rank=16) if is_adapter else None,
        dtype="bfloat16",
        micro_batch_tokens=pack,
        logit_chunk=2048,
        activation_checkpointing=True,
    )
    learner = Learner(make_model(sizes, torch.bfloat16 if is_adapter else torch.float32, device), config)
    batch = make_pack(learner.model.config.vocab_size, pack, row)
    peak = peak_of(learner.model.device, config.dtype)
    steps: list[dict[str, float]] = []
    for _ in range(STEPS + 1):
        speed = Speed()
        with speed.timing():
            speed.add(learner.forward_backward(batch))
            learner.optim_step()  # reads the gradient's norm: the device is done
        steps.append(speed.metrics(peak))
    found = {name: statistics.median(step[name] for step in steps[1:]) for name in steps[0]}
    if device == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
    return found


def measure_gpu() -> dict[str, Any]:
    """Every configuration on the CUDA device that there is."""
    if not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no CUDA device here; nothing was measured")
    results: dict[str, Any] = {}
    for title, sizes in MODELS.items():
        num = make_model(sizes, torch.float32, "meta").num_parameters()
        for is_adapter in (True, False):
            name = f"{title} {'LoRA r16' if is_adapter else 'full'}"
            if not is_adapter and 16 * num > ROOM:
                results[name] = "not measured: weights, gradients and AdamW take over 70 GB"
                continue
            results[name] = measure_one(sizes, is_adapter=is_adapter, device="cuda")
    device = torch.cuda.get_device_name()
    conditions = {"torch": torch.__version__, "pack": PACK, "row": ROW}
    return {
        "device": device,
        "bars": verdicts(device, results),
        "conditions": conditions,
        "results": results,
    }


def verdicts(device: str, results: Mapping[str, Any]) -> dict[str, str]:
    """Of each bar.

    >>> verdicts("NVIDIA H100 80GB HBM3", {"Qwen3-4B LoRA r16": {"mfu": 0.22}})["Qwen3-4B LoRA r16: mfu"]
    'pass'
    """
    found: dict[str, str] = {}
    for bar, least in BARS.items():
        title, figure = bar.split(": ")
        value = results.get(title, {}).get(figure)
        if value is None or "H100" not in device:
            found[bar] = "not measured"
        else:
            found[bar] = "pass" if value >= least else "FAIL"
    return found
