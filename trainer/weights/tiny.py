"""A small model and its tokenizer, made on the spot: a complete Hugging Face folder without a download."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from .._torch import seeded
from ..recipe import TinyModel
from .model import write_model

SPECIAL_TOKENS = ("<|pad|>", "<|im_start|>", "<|im_end|>")
PAD_ID, START_ID, END_ID = range(3)

CHAT_TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}
    {{- 'Tools:' }}
    {%- for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}
    {{- '\nTo call one, write\n<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n' if message.content or not loop.first else '' }}
            {{- '<tool_call>\n{"name": ' + (call.function.name | tojson) }}
            {{- ', "arguments": ' + (call.function.arguments | tojson) + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
""".strip()
"""ChatML, with tools and calls as Hermes models write them."""


def make_tiny_model(spec: TinyModel, folder: Path, texts: Iterable[str], *, seed: int = 0) -> None:
    """Write a Llama with random weights, and a tokenizer trained on `texts`, that transformers and vLLM load.

    Embeddings and head are not tied: vLLM on a CPU without our loader reloads tied ones
    wrongly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(texts, spec.vocab)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = _random_model(spec, tokenizer.get_vocab_size(), seed)
    write_model(model, dict(model.named_parameters()), folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    _write_json(folder / "generation_config.json", {"eos_token_id": [END_ID], "pad_token_id": PAD_ID})
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": SPECIAL_TOKENS[PAD_ID],
            "eos_token": SPECIAL_TOKENS[END_ID],
            "model_max_length": spec.max_context,
            "clean_up_tokenization_spaces": False,
        },
    )


def _train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """BPE over printable ASCII; anything else becomes "?".

    Digits, brackets and the minus of a number stay single, so that to copy a number is to copy tokens.
    """
    untyped: Any = tokenizers
    tokenizer: Tokenizer = untyped.Tokenizer(untyped.models.BPE(unk_token="?"))
    single = untyped.Regex(r"[0-9()\[\]{}]|\n|-(?=[0-9])")
    tokenizer.pre_tokenizer = untyped.pre_tokenizers.Split(single, behavior="isolated")
    tokenizer.decoder = untyped.decoders.Fuse()
    trainer = untyped.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=[*map(chr, range(32, 127)), "\n"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _random_model(spec: TinyModel, vocab_size: int, seed: int) -> PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=spec.hidden,
        intermediate_size=spec.intermediate,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.max_context,
        initializer_range=spec.init_std,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        tie_word_embeddings=False,
        pad_token_id=PAD_ID,
        bos_token_id=None,
        eos_token_id=END_ID,
    )
    with seeded(seed):
        return transformers.LlamaForCausalLM(config)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
