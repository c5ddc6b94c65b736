"""Tokens of a conversation as a model meets it, for those who must not know a tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import typer

from ..agents.pretrained import read_pretrained
from ..agents.renderer import Renderer
from ..agents.template import TemplateRefuses
from ..envs import Message, ToolSpec
from ..envs.datasets.rules import Count


def token_counter(model: Path | None, template: Path | None) -> Count:
    """Of a model folder, or of its tokenizer with another chat template."""
    if model is None:
        raise typer.BadParameter("tokens are counted by a tokenizer; name its folder with --model")
    try:
        found = read_pretrained(model)
        source = template.read_text(encoding="utf-8") if template else found.chat_template
        renderer = Renderer(found.tokenizer, source, special_tokens=found.special_tokens)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(f"--model {model}: {error}") from error

    def count(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> int:
        try:
            return len(renderer.opening(messages, tools))
        except TemplateRefuses as error:
            raise ValueError(str(error)) from error

    return count
