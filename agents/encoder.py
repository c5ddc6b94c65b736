"""Text to ids and back, with a guard against control tokens that stand in somebody's message."""

import re
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from .template import new_sentinel


class Encoder:
    """A tokenizer that never adds tokens of its own.

    Control tokens are the special ones, those that `template`, the chat template's source, writes itself
    (`</tool_response>`), and all that look like `<|fim_middle|>`. Other added tokens, such as runs of spaces
    or HTML tags, are ordinary text.
    """

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        self._tokenizer = tokenizer
        added = [token for token in tokenizer.get_added_tokens_decoder().values() if len(token.content) > 1]
        special = {token.content for token in added if token.special}
        written = {token.content for token in added if token.content.strip() and token.content in template}
        named = {token.content for token in added if re.fullmatch(r"<\|.+\|>", token.content)}
        self._special, self._control = _Tokens(special), _Tokens(special | written | named)
        self._break = new_sentinel()

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text that a template wrote. What `guard` broke stays broken."""
        if self._break not in text:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return tuple(id for piece in text.split(self._break) for id in self.encode(piece))

    def decode(self, ids: Sequence[int]) -> str:
        """The text, special tokens included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def guard(self, content: str) -> str:
        """Break every control token in two, so that it is encoded as the text that it is."""
        return self._control.broken_in(content, self._break)

    def guard_special(self, content: str) -> str:
        """The same for special tokens only: the policy's own `<think>` is a token."""
        return self._special.broken_in(content, self._break)

    def encode_behind(self, last: int, closing: str, cut: str, rest: str) -> tuple[int, ...]:
        """What follows an answer that ended with the stop token `last`."""
        stop = self.decode([last])
        end = closing.find(stop)
        if end >= 0:
            text = closing[end:] + rest
        elif rest.startswith(stop):  # GLM: the header of the next speaker is what ends a turn
            text = rest
        else:
            return self.encode(cut + rest)
        # With the stop token in front, because some tokenizers put a space at the start of a text.
        ids = self.encode(text)
        return ids[1:] if ids[0] == last else self.encode(text[len(stop) :])

    def encode_keeping(self, held_ids: Sequence[int], text: str) -> tuple[int, ...]:
        """The ids of `text`, which begin with `held_ids` if the text begins with theirs."""
        held = self.decode(held_ids)
        if not text.replace(self._break, "").startswith(held):
            return self.encode(text)
        left, at = len(held), 0
        for piece in text.split(self._break):
            if left <= len(piece):
                break
            left -= len(piece)
            at += len(piece) + len(self._break)
        return (*held_ids, *self.encode(text[at + left :]))

    def turn_end(self, closing: str, eos_token: str) -> str:
        """The special token in the text that closes a turn."""
        if eos_token and eos_token in closing:
            return eos_token
        found = self._special.found_in(closing)
        return found[-1] if found else ""

    def stop_ids(self, eos_ids: Iterable[int], tokens: Iterable[str]) -> tuple[int, ...]:
        """Without repetition; what ends a turn first."""
        named = [self._tokenizer.token_to_id(token) for token in reversed(list(tokens)) if token]
        return tuple(dict.fromkeys([*(id for id in named if id is not None), *eos_ids]))


class _Tokens:
    """Some tokens as text."""

    def __init__(self, texts: Iterable[str]) -> None:
        longest_first = sorted(texts, key=lambda text: (-len(text), text))
        self._any = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._starts = {text[:2] for text in longest_first}

    def found_in(self, text: str) -> list[str]:
        return self._any.findall(text)

    def broken_in(self, text: str, mark: str) -> str:
        """`text` with a mark behind the first character of each."""
        if not any(start in text for start in self._starts):  # the regex is slow on long texts
            return text
        while self._any.search(text):  # again, because tokens may overlap
            text = self._any.sub(lambda found: f"{found[0][0]}{mark}{found[0][1:]}", text)
        return text
