"""The exact tokens of an episode: what the engine saw and sampled, stored as deltas."""

from collections.abc import Sequence
from dataclasses import dataclass

from .engine import Generation, VersionSpan


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One engine call, as the difference to what its segment held before."""

    prompt_ids: tuple[int, ...]
    """Only the new part of the prompt."""
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """[len(completion_ids)] nats, from the engine."""
    versions: tuple[VersionSpan, ...]
    """Cover `completion_ids`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """An unbroken token sequence. A fork starts where the shared prefix of its parent ends."""

    parent: int | None = None
    """Index of the segment it forked from; None for a segment with a prompt of its own."""
    shared: int = 0
    """Tokens taken over from the parent's beginning; trained there, masked here."""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenGraph:
    """All segments of an episode, in the order in which they began.

    `concat` of a segment's deltas is the prompt and completion that the engine saw; `commit` checks it.
    """

    segments: tuple[Segment, ...] = ()

    def ids(self, segment: int) -> tuple[int, ...]:
        """Every token of a segment, the shared prefix included."""
        found = self.segments[segment]
        head = () if found.parent is None else self.ids(found.parent)[: found.shared]
        tail = (ids for call in found.calls for ids in (call.prompt_ids, call.completion_ids))
        return tuple(head) + tuple(token for ids in tail for token in ids)

    @property
    def num_sampled(self) -> int:
        """Tokens that the engine sampled, over all segments."""
        return sum(len(call.completion_ids) for segment in self.segments for call in segment.calls)

    def commit(self, prompt_ids: Sequence[int], generation: Generation) -> "TokenGraph":
        """The graph with one more engine call.

        A prompt that extends the newest segment is stored as its delta; any other prompt forks from the
        segment with which it shares the longest prefix.
        """
        raise NotImplementedError
