"""What a renderer needs of a model folder in the Hugging Face layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel
from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """The text side of a model."""

    tokenizer: Tokenizer
    chat_template: str
    special_tokens: dict[str, str]
    """By the name that chat templates use, such as `eos_token`."""
    eos_ids: tuple[int, ...]
    """Where generation ends, as generation_config.json says."""


class _Token(BaseModel):
    """A special token with its flags; older files have the bare string."""

    content: str


class _NamedTemplate(BaseModel):
    name: str
    template: str


class _TokenizerConfig(BaseModel):
    bos_token: str | _Token | None = None
    eos_token: str | _Token | None = None
    pad_token: str | _Token | None = None
    unk_token: str | _Token | None = None
    chat_template: str | list[_NamedTemplate] | None = None

    def special_tokens(self) -> dict[str, str]:
        named = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        named |= {"pad_token": self.pad_token, "unk_token": self.unk_token}
        return {
            name: token.content if isinstance(token, _Token) else token
            for name, token in named.items()
            if token is not None
        }


class _GenerationConfig(BaseModel):
    eos_token_id: int | list[int] | None = None

    def eos_ids(self) -> tuple[int, ...]:
        found = self.eos_token_id
        return () if found is None else (found,) if isinstance(found, int) else tuple(found)


def read_pretrained(folder: Path) -> Pretrained:
    """Raises `ValueError` where the tokenizer or the chat template is missing."""
    if not (folder / "tokenizer.json").exists():
        raise ValueError(f"{folder} has no tokenizer.json; save the tokenizer there with save_pretrained")
    config = _read(folder / "tokenizer_config.json", _TokenizerConfig)
    return Pretrained(
        tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")),
        chat_template=_chat_template(folder, config),
        special_tokens=config.special_tokens(),
        eos_ids=_read(folder / "generation_config.json", _GenerationConfig).eos_ids(),
    )


_Model = TypeVar("_Model", bound=BaseModel)


def _read(path: Path, kind: type[_Model]) -> _Model:
    return kind.model_validate_json(path.read_bytes()) if path.exists() else kind()


def _chat_template(folder: Path, config: _TokenizerConfig) -> str:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    found = config.chat_template
    if isinstance(found, list):
        found = {entry.name: entry.template for entry in found}.get("default")
    if found is None:
        raise ValueError(f"{folder} has no chat template; put one into chat_template.jinja")
    return found
