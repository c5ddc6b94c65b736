"""TRL's `GRPOTrainer._compute_loss`, called as it stands, on rows of ours.

The trainer is made without its `__init__`, which wants a data set and a tokenizer. Its log-probabilities are
replaced by plain ones in fp64, as its own fused head computes in less.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.trainer.batches.rows import Row

PROMPT = 3
"""Tokens of every row's prompt: without padding there, positions are the same on both sides."""


def trl_loss(
    model: Any,
    rows: Sequence[Row],
    folder: Path,
    *,
    correct: Callable[[Tensor, Tensor], Tensor] | None = None,
    entropy_coef: float = 0.0,
    **settings: Any,
) -> Tensor:
    """The loss of a batch, with its graph. `correct`: the importance ratio from [B, T] log ratios and mask,
    as TRL's `_generate_and_score_completions` hands it on."""
    config = import_module("trl").GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=None,  # its default warns
        per_device_train_batch_size=len(rows),
        num_generations=2,
        steps_per_generation=1,
        **{"use_bias_correction_kl": True, **settings},
    )
    inputs = _inputs(rows)
    if correct is not None:
        gaps = inputs["old_per_token_logps"] - inputs["sampling_per_token_logps"]
        inputs["importance_sampling_ratio"] = correct(gaps * inputs["tool_mask"], inputs["tool_mask"])
    trainer = _trainer(config, model, entropy_coef, is_corrected=correct is not None)
    found: Tensor = trainer._compute_loss(model, inputs)
    model.eval()
    return found


def _trainer(config: Any, model: Any, entropy_coef: float, *, is_corrected: bool) -> Any:
    kind = import_module("trl").GRPOTrainer
    trainer: Any = kind.__new__(kind)
    trainer.args, trainer.model = config, model.train()
    trainer.accelerator = import_module("accelerate").Accelerator(cpu=True)
    trainer._get_per_token_logps_and_entropies = _plain_logps
    trainer._metrics = {mode: _Lists() for mode in ("train", "eval")}
    trainer._entropy_bonus_enabled, trainer.use_adaptive_entropy = entropy_coef != 0, False
    trainer.entropy_coef = entropy_coef
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = is_corrected
    trainer.aux_loss_enabled, trainer.current_gradient_accumulation_steps = False, 1
    trainer.epsilon_low, trainer.epsilon_high = config.epsilon, config.epsilon_high or config.epsilon
    for name in ("beta", "importance_sampling_level", "loss_type", "max_completion_length"):
        setattr(trainer, name, getattr(config, name))
    for name in ("off_policy_mask_threshold", "top_entropy_quantile"):
        setattr(trainer, name, getattr(config, name))
    return trainer


class _Lists(dict[str, list[float]]):
    def __missing__(self, name: str) -> list[float]:
        return self.setdefault(name, [])


def _plain_logps(
    model: Any, input_ids: Tensor, attention_mask: Tensor, keep: int, **_: Any
) -> tuple[Tensor, Tensor, None]:
    model.eval()  # no dropout
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    chosen = logprobs.gather(2, input_ids[:, 1:, None])[:, :, 0]
    model.train()
    return chosen[:, -keep:], entropy[:, -keep:], None


def _inputs(rows: Sequence[Row]) -> dict[str, Tensor]:
    """A batch as TRL has it: completions padded on the right, what tools said masked out."""
    width = max(len(row.tokens.ids) for row in rows) - PROMPT

    def padded(values: Sequence[Sequence[float]], dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor(
            [[*each[PROMPT:], *(0,) * (width + PROMPT - len(each))] for each in values], dtype=dtype
        )

    lengths = [(True,) * len(row.tokens.ids) for row in rows]
    mask = padded([row.tokens.mask for row in rows])
    return {
        "prompt_ids": torch.tensor([row.tokens.ids[:PROMPT] for row in rows]),
        "prompt_mask": torch.ones(len(rows), PROMPT, dtype=torch.long),
        "completion_ids": padded([row.tokens.ids for row in rows], torch.long),
        "completion_mask": padded(lengths, torch.long),
        "tool_mask": mask,
        "advantages": torch.tensor([max(row.advantages, key=abs) for row in rows], dtype=torch.float64),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": padded([row.old_logprobs or () for row in rows]),
        "ref_per_token_logps": padded([row.ref_logprobs or () for row in rows]),
        "sampling_per_token_logps": padded([row.tokens.logprobs for row in rows]),
    }
