"""A tokenizer without files, and chat templates small enough to read."""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
"""The generation prompt opens a thought."""
HEADERS_ONLY = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""As GLM: a turn ends where the next header begins."""


def byte_tokenizer(*special: str, merges: Sequence[tuple[str, str]] = ()) -> Tokenizer:
    """One token per byte (ids 0 .. 255), then one per merge, then the special ones."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(
        models.BPE(vocab={piece: id for id, piece in enumerate(pieces)}, merges=list(merges))
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(text, normalized=False) for text in (*SPECIAL, *special)]
    tokenizer.add_special_tokens(added)  # pyright: ignore[reportUnknownMemberType]  its stub says "list"
    return tokenizer
