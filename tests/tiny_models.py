"""Tiny random models, made in code."""

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

# Products this small only lose time on a second thread.
torch.set_num_threads(1)

FAMILIES = ("qwen2", "qwen3", "llama")


def tiny_model(
    family: str = "qwen2", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> Any:
    """Random weights with logits far enough from uniform to tell a right answer from a wrong one."""
    shape: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 128,
        "tie_word_embeddings": family != "llama",
        "initializer_range": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | changes
    manual_seed(seed)
    model: Any  # transformers decorates `to` out of its types
    if family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    elif family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def manual_seed(seed: int) -> None:
    """Seed torch, whose own function is partly untyped."""
    random: Any = torch.random
    random.manual_seed(seed)


def logprobs_of(model: Any, prompt: list[int], answer: list[int], temperature: float = 1.0) -> list[float]:
    """Log-probabilities of an answer from one full forward of transformers."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    rows = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return [float(logprobs[row, token]) for row, token in zip(rows, answer, strict=True)]
