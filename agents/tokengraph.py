"""The exact tokens of an episode: what the engine saw and sampled, stored as deltas."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from .engine import Generation, VersionSpan


class InexactTokens(AssertionError):
    """The graph would not hold what the engine saw: a bug in an engine or in this file."""


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

    @property
    def own_ids(self) -> tuple[int, ...]:
        """What comes after the shared prefix."""
        return tuple(chain.from_iterable(chain(call.prompt_ids, call.completion_ids) for call in self.calls))


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRow:
    """One segment, ready to be trained on. T is its length."""

    ids: tuple[int, ...]
    """[T]"""
    mask: tuple[bool, ...]
    """[T] True for the sampled tokens that this row trains; over all rows that is each one once."""
    logprobs: tuple[float, ...]
    """[T] engine logprobs, nats; 0.0 where the mask is False."""
    versions: tuple[int, ...]
    """[T] policy version that sampled the token; -1 where the mask is False."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenGraph:
    """All segments of an episode, in the order in which they began.

    `concat` of a segment's deltas is the prompt and completion that the engine saw; `commit` checks it.
    """

    segments: tuple[Segment, ...] = ()

    def ids(self, segment: int) -> tuple[int, ...]:
        """Every token of a segment, the shared prefix included."""
        pieces: list[tuple[int, ...]] = []
        index: int | None = segment
        end: int | None = None
        while index is not None:  # from the fork back to its root; each step keeps what lies before `shared`
            found = self.segments[index]
            pieces.append(found.own_ids[: None if end is None else max(end - found.shared, 0)])
            end = found.shared if end is None else min(end, found.shared)
            index = found.parent
        return tuple(chain.from_iterable(reversed(pieces)))

    @property
    def num_sampled(self) -> int:
        """Tokens that the engine sampled, over all segments."""
        return sum(len(call.completion_ids) for segment in self.segments for call in segment.calls)

    @property
    def num_forks(self) -> int:
        """How often a prompt did not extend the newest segment."""
        return max(len(self.segments) - 1, 0)

    def commit(self, prompt_ids: Sequence[int], generation: Generation) -> "TokenGraph":
        """The graph with one more engine call.

        A prompt that extends the newest segment is stored as its delta; any other prompt forks from the
        segment with which it shares the longest prefix.
        """
        _check(generation)
        prompt = tuple(prompt_ids)
        newest = self.ids(len(self.segments) - 1) if self.segments else None
        if newest is not None and prompt[: len(newest)] == newest:
            last = self.segments[-1]
            call = _call(prompt[len(newest) :], generation)
            grown = (*self.segments[:-1], replace(last, calls=(*last.calls, call)))
        else:
            parent, shared = self._nearest(prompt)
            call = _call(prompt[shared:], generation)
            grown = (*self.segments, Segment(parent=parent, shared=shared, calls=(call,)))
        graph = TokenGraph(segments=grown)
        if graph.ids(len(grown) - 1) != prompt + generation.ids:
            raise InexactTokens(f"segment {len(grown) - 1} is not the prompt and completion of its last call")
        return graph

    def rows(self) -> Iterator[TokenRow]:
        """What to train: a row for each segment in which something was sampled."""
        for index, segment in enumerate(self.segments):
            if any(call.completion_ids for call in segment.calls):
                yield self._row(index, segment)

    def _row(self, index: int, segment: Segment) -> TokenRow:
        mask = [False] * segment.shared
        logprobs = [0.0] * segment.shared
        versions = [-1] * segment.shared
        for call in segment.calls:
            new, sampled = len(call.prompt_ids), len(call.completion_ids)
            mask += [False] * new + [True] * sampled
            logprobs += [0.0] * new + list(call.logprobs)
            versions += [-1] * new
            for span in call.versions:
                versions += [span.version] * (span.end - span.start)
        return TokenRow(
            ids=self.ids(index), mask=tuple(mask), logprobs=tuple(logprobs), versions=tuple(versions)
        )

    def _nearest(self, prompt: tuple[int, ...]) -> tuple[int | None, int]:
        """(segment, length) of the longest shared prefix; the oldest such segment; (None, 0) without one."""
        best: tuple[int | None, int] = (None, 0)
        whole: list[tuple[int, ...]] = []
        for index, segment in enumerate(self.segments):
            head = () if segment.parent is None else whole[segment.parent][: segment.shared]
            whole.append(head + segment.own_ids)
            shared = common_prefix(whole[index], prompt)
            if shared > best[1]:
                best = (index, shared)
        return best


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """How much two tuples, or two texts, have in common at their start.

    >>> common_prefix((1, 2, 3), (1, 2, 4, 5))
    2
    """
    low, high = 0, min(len(left), len(right))
    while low < high:  # bisecting compares slices in C: 20 times as fast as a loop over the tokens
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _call(new_ids: tuple[int, ...], generation: Generation) -> Call:
    return Call(
        prompt_ids=new_ids,
        completion_ids=generation.ids,
        logprobs=generation.logprobs,
        versions=generation.versions,
    )


def _check(generation: Generation) -> None:
    """One logprob and one version for each token."""
    covered = 0
    for span in generation.versions:
        if span.start != covered or span.end < span.start:
            raise InexactTokens(f"version span {span} does not start where the last one ended ({covered})")
        covered = span.end
    if not len(generation.ids) == len(generation.logprobs) == covered:
        raise InexactTokens(
            f"{len(generation.ids)} sampled tokens with {len(generation.logprobs)} logprobs "
            f"and versions for {covered}"
        )
