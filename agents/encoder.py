"""Text to ids and back, with a guard against special tokens that stand in somebody's message."""

import re
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from .template import new_sentinel


class Encoder:
    """A tokenizer that never adds tokens of its own."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        special = [token.content for token in added.values() if token.special and len(token.content) > 1]
        special.sort(key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
        self._starts = {token[:2] for token in special}
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
        """Break every special token in two, so that it is encoded as the text that it is."""
        if not any(start in content for start in self._starts):  # the regex is slow on long texts
            return content
        while self._special.search(content):  # again, because tokens may overlap
            content = self._special.sub(lambda found: f"{found[0][0]}{self._break}{found[0][1:]}", content)
        return content

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
        found: list[str] = self._special.findall(closing)
        return found[-1] if found else ""

    def stop_ids(self, eos_ids: Iterable[int], tokens: Iterable[str]) -> tuple[int, ...]:
        """Without repetition; what ends a turn first."""
        named = [self._tokenizer.token_to_id(token) for token in reversed(list(tokens)) if token]
        return tuple(dict.fromkeys([*(id for id in named if id is not None), *eos_ids]))
