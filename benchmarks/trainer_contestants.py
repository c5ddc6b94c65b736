"""Who races in `trainer.py`: one process each, that takes an optimizer step when it is told to.

All train the same model on the same episodes with the same loss (a clipped ratio of 1, mean over the trained
tokens), clip the gradient at 1 and step AdamW. A role is a function that returns the step.
"""

import argparse
import gc
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from palaestra.agents.tokengraph import TokenRow
from palaestra.agents.trajectory import EpisodeKey
from palaestra.trainer.batches.rows import Row, make_batch
from palaestra.trainer.config import LearnerConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.schedule import OptimizerConfig

VOCAB = 151_936
"""Of Qwen3: at this size it is most of the model, and most of the work."""
LR = 1e-6
CHUNK = 256
MICRO_BATCH_TOKENS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """One optimizer step."""

    seconds: float
    loss: float
    grad_norm: float


Step = Callable[[], tuple[float, float]]
"""Takes one step; (loss, gradient norm before clipping)."""


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    """TRL wants a reward; what is measured is the step after it."""
    return [0.0] * len(completions)


def make_model() -> Any:
    """Qwen3, 24 M parameters, of which the tied embedding is 19 M."""
    untyped: Any = torch
    untyped.manual_seed(0)
    make_config: Any = transformers.Qwen3Config
    config = make_config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=768,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    return transformers.Qwen3ForCausalLM(config)


def make_rows(workload: str, episodes: int) -> list[Row]:
    """A group of multi-turn tool episodes. "turns": a short prompt; "prefix": a long one, and short turns."""
    draw = random.Random(0)
    prompt = _ids(draw, 160 if workload == "turns" else 1024)
    rows: list[Row] = []
    for sample in range(episodes):
        ids, mask = list(prompt), [False] * len(prompt)
        for turn in range(draw.randint(2, 5) if workload == "turns" else 2):
            if turn:
                seen = _ids(draw, draw.randint(32, 192) if workload == "turns" else 48)
                ids, mask = ids + seen, mask + [False] * len(seen)
            said = _ids(draw, draw.randint(24, 64))
            ids, mask = ids + said, mask + [True] * len(said)
        advantage = 1.0 if sample % 2 else -0.9
        rows.append(make_row(ids, mask, advantage=advantage, sample=sample))
    return rows


def _ids(draw: random.Random, num: int) -> list[int]:
    return [draw.randrange(VOCAB) for _ in range(num)]


def make_row(ids: Sequence[int], mask: Sequence[bool], *, advantage: float, sample: int) -> Row:
    zeros = (0.0,) * len(ids)
    versions = tuple(0 if is_trained else -1 for is_trained in mask)
    return Row(
        key=EpisodeKey(epoch=0, task_id="t", sample=sample),
        tokens=TokenRow(ids=tuple(ids), mask=tuple(mask), logprobs=zeros, versions=versions),
        advantages=tuple(advantage if is_trained else 0.0 for is_trained in mask),
        episode_tokens=sum(mask),
    )


# --- ours ---


def ours(rows: list[Row], **options: Any) -> Step:
    config = LearnerConfig(
        optimizer=OptimizerConfig(lr=LR),
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        logit_chunk=CHUNK,
        **options,
    )
    learner = Learner(make_model(), config)
    batch = make_batch(rows, is_fresh=True)  # ratios to its own logprobs of each step: everybody's objective

    def step() -> tuple[float, float]:
        loss = learner.forward_backward(batch, correction=None).loss
        return loss, learner.optim_step().grad_norm

    return step


# --- the bare limit ---


def bare(rows: list[Row]) -> Step:
    """As little torch as does it: padded lines of rows of like length, the head on the trained positions."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    total = sum(sum(row.tokens.mask) for row in rows)
    micros = [_padded(plan) for plan in _plans(rows)]

    def step() -> tuple[float, float]:
        losses = [_bare_pass(model, micro, total) for micro in micros]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        untyped: Any = optimizer
        untyped.step()
        untyped.zero_grad()
        return sum(losses), float(norm)

    return step


def _plans(rows: list[Row]) -> list[list[Row]]:
    plans: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.trained_until):
        if plans and (len(plans[-1]) + 1) * row.trained_until <= MICRO_BATCH_TOKENS:
            plans[-1].append(row)
        else:
            plans.append([row])
    return plans


def _padded(rows: list[Row]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(ids, where tokens are predicted, the tokens, their advantages)."""
    width = rows[-1].trained_until
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: row.trained_until] = torch.tensor(row.tokens.ids[: row.trained_until])
    source = [n * width + at - 1 for n, row in enumerate(rows) for at in row.trained]
    targets = [row.tokens.ids[at] for row in rows for at in row.trained]
    advantages = [row.advantages[at] for row in rows for at in row.trained]
    return ids, torch.tensor(source), torch.tensor(targets), torch.tensor(advantages)


def _bare_pass(model: Any, micro: tuple[Tensor, Tensor, Tensor, Tensor], total: int) -> float:
    ids, source, targets, advantages = micro
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
    leaf = hidden.detach().requires_grad_()
    summed = 0.0
    for start in range(0, len(source), CHUNK):
        part = slice(start, start + CHUNK)
        logits = model.lm_head(leaf[source[part]])
        logprobs = -torch.nn.functional.cross_entropy(logits, targets[part], reduction="none")
        loss = -((logprobs - logprobs.detach()).exp() * advantages[part]).sum() / total
        untyped: Any = loss
        untyped.backward()
        summed += float(loss.detach())
    hidden.backward(leaf.grad)
    return summed


# --- TRL ---


def trl(rows: list[Row], micro_batch: int) -> Step:
    """TRL's `GRPOTrainer`: its own `_compute_loss`, backward, clipping and optimizer, on its own padding."""
    trainer = _trl_trainer(len(rows), micro_batch)
    model = trainer.model.train()
    optimizer = trainer.create_optimizer()
    parts = _trl_parts(rows, micro_batch)
    trainer.current_gradient_accumulation_steps = len(parts)

    def step() -> tuple[float, float]:
        losses: list[float] = []
        for part in parts:
            with trainer.compute_loss_context_manager():
                loss = trainer._compute_loss(model, part)
            trainer.accelerator.backward(loss)
            losses.append(float(loss.detach()))
        norm = trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
        return sum(losses), float(norm)

    return step


def _trl_trainer(episodes: int, micro_batch: int) -> Any:
    peer: Any = import_module("trl")
    datasets: Any = import_module("datasets")
    tokenizers: Any = import_module("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    fast: Any = transformers.PreTrainedTokenizerFast
    arguments = peer.GRPOConfig(
        output_dir="/nonexistent",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=episodes // micro_batch,
        num_generations=episodes,
        beta=0.0,
        loss_type="dapo",
        learning_rate=LR,
        weight_decay=0.0,
    )
    return peer.GRPOTrainer(
        model=make_model(),
        reward_funcs=_no_reward,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["x"] * episodes}),
        processing_class=fast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"),
    )


def _trl_parts(rows: list[Row], micro_batch: int) -> list[dict[str, Tensor]]:
    """Prompts padded on the left, completions on the right, tool results masked: as TRL lays them out."""
    first = [row.trained[0] for row in rows]
    left, right = max(first), max(len(row.tokens.ids) - at for row, at in zip(rows, first, strict=True))
    whole = {
        name: torch.zeros((len(rows), left if "prompt" in name else right), dtype=torch.int64)
        for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask")
    }
    for n, (row, at) in enumerate(zip(rows, first, strict=True)):
        tail = len(row.tokens.ids) - at
        whole["prompt_ids"][n, left - at :] = torch.tensor(row.tokens.ids[:at])
        whole["prompt_mask"][n, left - at :] = 1
        whole["completion_ids"][n, :tail] = torch.tensor(row.tokens.ids[at:])
        whole["completion_mask"][n, :tail] = 1
        whole["tool_mask"][n, :tail] = torch.tensor(row.tokens.mask[at:], dtype=torch.int64)
    whole["advantages"] = torch.tensor([row.advantages[row.trained[0]] for row in rows])
    total = torch.tensor(float(sum(sum(row.tokens.mask) for row in rows)))
    starts = range(0, len(rows), micro_batch)
    return [
        {name: values[start : start + micro_batch] for name, values in whole.items()}
        | {"num_items_in_batch": total}
        for start in starts
    ]


ROLES: dict[str, Callable[[list[Row]], Step]] = {
    "palaestra": ours,
    "palaestra, checkpointed": lambda rows: ours(rows, activation_checkpointing=True),
    "palaestra, shared": lambda rows: ours(rows, share_prefixes_from=32),
    "bare": bare,
    "trl": lambda rows: trl(rows, len(rows)),
    "trl, one by one": lambda rows: trl(rows, 1),
}


def memory_mb(field: str) -> float:
    """VmRSS, or VmHWM: the most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return math.nan


def serve(role: str, workload: str, episodes: int, threads: int) -> None:
    """A step for each line on standard input; what it took, and the most memory so far, as a line of JSON."""
    torch.set_num_threads(threads)
    rows = make_rows(workload, episodes)
    if role.startswith("trl"):
        import_module("trl").GRPOTrainer  # noqa: B018  # its imports are no part of its memory
    gc.collect()
    before_mb = memory_mb("VmRSS")
    step = ROLES[role](rows)
    for _ in sys.stdin:
        started = time.perf_counter()
        loss, norm = step()
        taken = Taken(seconds=time.perf_counter() - started, loss=loss, grad_norm=norm)
        peak_mb = memory_mb("VmHWM") - before_mb
        print("step " + json.dumps({**asdict(taken), "peak_mb": peak_mb}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("workload", choices=("turns", "prefix"))
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    serve(asked.role, asked.workload, asked.episodes, asked.threads)
