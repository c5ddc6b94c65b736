"""The GPU side of `trainer.py`: tokens/s and MFU on 16k-token packs, Qwen3 shapes with random weights, bf16.

MFU counts what has to be computed: 6 FLOPs a parameter and token when every parameter is trained, 4 when the
weights are frozen under an adapter; the head on the trained positions only; attention within each row.
"""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from trainer_contestants import make_row

from palaestra.trainer.batches.rows import Batch, make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.learner import Learner

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16, by a part of the device's name."""
PACK, ROW, TRAINED = 16_384, 2_048, 0.5
STEPS = 5
BARS = {
    "Qwen3-4B LoRA r16: tokens_per_s": 6_200.0,
    "Qwen3-4B LoRA r16: mfu": 0.217,
    "Qwen3-0.6B LoRA r16: tokens_per_s": 13_300.0,
}
"""At least so much on one H100."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A Qwen3 model, as its config has it."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int = 8
    head_dim: int = 128
    vocab: int = 151_936

    @property
    def body(self) -> int:
        """Parameters of all layers' matrices."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


SHAPES = {
    "Qwen3-0.6B": Shape(hidden=1024, intermediate=3072, layers=28, heads=16),
    "Qwen3-1.7B": Shape(hidden=2048, intermediate=6144, layers=28, heads=16),
    "Qwen3-4B": Shape(hidden=2560, intermediate=9728, layers=36, heads=32),
}


def make_shape(shape: Shape, dtype: torch.dtype, device: str) -> Any:
    make_config: Any = transformers.Qwen3Config
    config = make_config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
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


def flops(shape: Shape, batch: Batch, *, is_adapter: bool) -> float:
    """Of one step, by the rule in the file's docstring."""
    tokens = sum(len(row.tokens.ids) for row in batch.rows)
    trained = sum(sum(row.tokens.mask) for row in batch.rows)
    squares = sum(len(row.tokens.ids) ** 2 for row in batch.rows)
    each = 4 if is_adapter else 6
    attention = 6 * shape.layers * shape.heads * shape.head_dim * squares
    return each * (shape.body * tokens + shape.vocab * shape.hidden * trained) + attention


def measure_one(
    shape: Shape, *, is_adapter: bool, device: str, pack: int = PACK, row: int = ROW
) -> dict[str, float]:
    """Tokens/s, achieved FLOP/s and memory of one configuration."""
    model = make_shape(shape, torch.bfloat16 if is_adapter else torch.float32, device)
    config = LearnerConfig(
        lora=LoraConfig(rank=16) if is_adapter else None,
        dtype="bfloat16",
        micro_batch_tokens=pack,
        logit_chunk=2048,
        activation_checkpointing=True,
    )
    learner = Learner(model, config)
    batch = make_pack(shape.vocab, pack, row)
    seconds: list[float] = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        learner.forward_backward(batch)
        learner.optim_step()  # reads the gradient's norm: the device is done
        seconds.append(time.perf_counter() - started)
    best = sorted(seconds[1:])[len(seconds[1:]) // 2]
    tokens = sum(len(row.tokens.ids) for row in batch.rows)
    found = {"tokens_per_s": tokens / best, "flops_per_s": flops(shape, batch, is_adapter=is_adapter) / best}
    if device == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
    return found


def measure_gpu() -> dict[str, Any]:
    """Every configuration on the CUDA device that there is."""
    if not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no CUDA device here; nothing was measured")
    name = torch.cuda.get_device_name()
    peak = next((value for part, value in PEAK_FLOPS.items() if part in name), None)
    results: dict[str, Any] = {}
    for title, shape in SHAPES.items():
        for is_adapter in (True, False):
            if not is_adapter and 16 * (shape.body + shape.vocab * shape.hidden) > 70e9:
                results[f"{title} full"] = "not measured: weights, gradients and AdamW take over 70 GB"
                continue
            found = measure_one(shape, is_adapter=is_adapter, device="cuda")
            if peak is not None:
                found["mfu"] = found["flops_per_s"] / peak
            results[f"{title} {'LoRA r16' if is_adapter else 'full'}"] = found
    conditions = {"torch": torch.__version__, "pack": PACK, "row": ROW}
    return {"device": name, "bars": verdicts(name, results), "conditions": conditions, "results": results}


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
