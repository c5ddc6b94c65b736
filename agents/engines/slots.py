"""Which request sits in which slot of the cache, and what the next forward computes. No torch here.

A slot keeps the tokens of its last request, so the next turn of an episode continues where the last one
stopped, and siblings with one prompt compute it once. This changes no result: what the cache holds at a
position depends only on the tokens up to it.

Shapes: S slots, L cache positions of a slot, M rows of a forward, R rows that sample.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..engine import Finish, Generation, PolicyVersion, Sampling, VersionSpan
from ..errors import EngineError

Ints = npt.NDArray[np.int64]

_WORTH_WAITING = 16
"""Tokens of a prompt that another request is about to compute, for which a twin waits."""


@dataclass(eq=False, kw_only=True, slots=True)
class Request:
    """A generate call on its way through the slots."""

    prompt: Ints
    sampling: Sampling
    seed: int
    version: PolicyVersion
    end: int
    """Tokens of prompt and answer together at which it stops."""
    deliver: Callable[[Generation | EngineError], None]
    cancelled: bool = False
    replica: int = -1
    """Serial number of the weights; never used twice, as a version is that comes again."""


def refuse(requests: Iterable[Request], error: EngineError) -> None:
    """Answer all of them with one error."""
    for request in requests:
        request.deliver(error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One forward: the arrays behind a `Batch`, and who samples afterwards."""

    slots_M: Ints
    positions_M: Ints
    singles: int
    in_place: bool
    chunks: tuple[tuple[int, int, int], ...]
    """(slot, first row, row after the last)."""
    advance: tuple[tuple[int, int], ...]
    """(slot, tokens that the forward adds to it)."""
    wanted_R: Ints
    """Rows whose next token is sampled."""
    sampling_R: Ints = field(repr=False)
    """Their slots."""


class Slots:
    """The table. Slot `count` is the spare one that takes the rows that only fill up a shape."""

    def __init__(self, count: int, *, context: int, width: int, fixed: bool) -> None:
        self.count, self._width, self._fixed = count, width, fixed
        self.ids_SL: Ints = np.zeros((count + 1, context), np.int64)
        self._logprobs_SL = np.zeros((count + 1, context), np.float64)
        self._cached_S: Ints = np.zeros(count, np.int64)  # tokens in the cache
        self._known_S: Ints = np.zeros(count, np.int64)  # tokens that will be, with the request's prompt
        self._replica_S: Ints = np.full(count, -1, np.int64)
        self._used_S: Ints = np.zeros(count, np.int64)
        self._busy_S = np.zeros(count, np.bool_)
        self._requests: list[Request | None] = [None] * count
        self._clock = 0

    def replicas(self) -> list[int]:
        """Serial numbers of the weights that have work, each once."""
        return [int(replica) for replica in np.unique(self._replica_S[self._busy_S])]

    def request(self, slot: int) -> Request:
        """The request in a busy slot."""
        found = self._requests[slot]
        assert found is not None
        return found

    def admit(self, request: Request, copy_prefix: Callable[[int, int, int], None]) -> bool:
        """Give the request a slot. False: none is free, or its prompt is just being computed by another."""
        if self._busy_S.all():
            return False
        prompt, last = request.prompt, len(request.prompt) - 1  # the last token's logits are always computed
        equal = self.ids_SL[: self.count, :last] == prompt[:last]
        same_S = np.where(equal.all(axis=1), last, equal.argmin(axis=1) if last else 0)
        same_S = np.where(self._replica_S == request.replica, same_S, 0)
        ready_S = np.minimum(same_S, self._cached_S)
        coming_S = np.minimum(same_S, self._known_S)[self._busy_S]
        if coming_S.max(initial=0) - ready_S.max() >= _WORTH_WAITING:
            return False
        continues_S = ~self._busy_S & (ready_S == self._cached_S)
        source = int((2 * ready_S + continues_S).argmax())
        target = source if continues_S[source] else self._stalest()
        if (reused := int(ready_S[source])) and source != target:
            copy_prefix(source, target, reused)
        self.ids_SL[target, : len(prompt)] = prompt
        self._cached_S[target], self._known_S[target] = reused, len(prompt)
        self._replica_S[target], self._busy_S[target] = request.replica, True
        self._requests[target] = request
        return True

    def plan(self, replica: int) -> Plan:
        """The next forward of one replica: a row for each answer in progress, then prompts."""
        mine = np.flatnonzero(self._busy_S & (self._replica_S == replica))
        todo = self._known_S[mine] - self._cached_S[mine]
        decoding, prompting = mine[todo == 1], mine[todo > 1]
        decoding = decoding[: self._width]
        room, chunks = self._width - len(decoding), list[tuple[int, int]]()
        for slot in prompting.tolist():
            if room == 0:
                break
            count = min(room, int(self._known_S[slot] - self._cached_S[slot]))
            chunks.append((slot, count))
            room -= count
        return self._lay_out(decoding, chunks)

    def advance(self, plan: Plan, ids_R: Ints, logprobs_R: npt.NDArray[np.float64]) -> None:
        """Note what a forward computed and sampled; deliver the answers that end with it."""
        for slot, count in plan.advance:
            self._cached_S[slot] += count
        positions = self._cached_S[plan.sampling_R]
        self.ids_SL[plan.sampling_R, positions] = ids_R
        self._logprobs_SL[plan.sampling_R, positions] = logprobs_R
        self._known_S[plan.sampling_R] = positions + 1
        lengths = (positions + 1).tolist()
        for slot, token, length in zip(plan.sampling_R.tolist(), ids_R.tolist(), lengths, strict=True):
            request = self.request(slot)
            if token in request.sampling.stop_ids:
                self._finish(slot, request, length, Finish.STOP)
            elif length >= request.end:
                self._finish(slot, request, length, Finish.LENGTH)

    def drop_cancelled(self) -> None:
        """Free the slots whose callers have gone."""
        for slot in np.flatnonzero(self._busy_S).tolist():
            if self.request(slot).cancelled:
                self._free(slot)

    def fail(self, replica: int, error: EngineError) -> None:
        """Answer every request of one replica with an error; its cached tokens are not trusted again."""
        for slot in np.flatnonzero(self._busy_S & (self._replica_S == replica)).tolist():
            request = self.request(slot)
            self._cached_S[slot] = 0
            self._free(slot)
            request.deliver(error)

    def _finish(self, slot: int, request: Request, length: int, finish: Finish) -> None:
        start = len(request.prompt)
        self._free(slot)
        request.deliver(
            Generation(
                ids=tuple(self.ids_SL[slot, start:length].tolist()),
                logprobs=tuple(self._logprobs_SL[slot, start:length].tolist()),
                versions=(VersionSpan(version=request.version, start=0, end=length - start),),
                finish=finish,
            )
        )

    def _free(self, slot: int) -> None:
        self._clock += 1
        self._busy_S[slot], self._requests[slot] = False, None
        self._known_S[slot], self._used_S[slot] = self._cached_S[slot], self._clock

    def _stalest(self) -> int:
        """The free slot that was used longest ago."""
        return int(np.where(self._busy_S, np.iinfo(np.int64).max, self._used_S).argmin())

    def _lay_out(self, decoding: Ints, chunks: list[tuple[int, int]]) -> Plan:
        top = int(decoding[-1]) + 1 if len(decoding) else 0
        # Reading the cache in place saves a copy of it, at the price of rows for the slots between.
        in_place = not chunks if self._fixed else len(decoding) * 2 > top
        slots = [self._lanes(decoding, self.count if self._fixed else top) if in_place else decoding]
        positions = [np.append(self._cached_S, 0)[slots[0]]]
        sampling, wanted = decoding.tolist(), (decoding if in_place else np.arange(len(decoding))).tolist()
        spans, row = list[tuple[int, int, int]](), len(slots[0])
        for slot, count in chunks:
            start = int(self._cached_S[slot])
            slots.append(np.full(count, slot))
            positions.append(np.arange(start, start + count))
            spans.append((slot, row, row + count))
            row += count
            if start + count == self._known_S[slot]:
                sampling.append(slot)
                wanted.append(row - 1)
        if self._fixed:  # every row alone, and idle rows up to the width
            slots.append(np.full(self._width - row, self.count))
            positions.append(np.zeros(self._width - row, np.int64))
        return Plan(
            slots_M=np.concatenate(slots),
            positions_M=np.concatenate(positions),
            singles=self._width if self._fixed else len(slots[0]),
            in_place=in_place,
            chunks=() if self._fixed else tuple(spans),
            advance=(*((slot, 1) for slot in decoding.tolist()), *chunks),
            wanted_R=np.array(wanted, np.int64),
            sampling_R=np.array(sampling, np.int64),
        )

    def _lanes(self, decoding: Ints, top: int) -> Ints:
        """Row i for slot i, the spare slot where slot i has nothing to decode."""
        lanes = np.full(top, self.count)
        lanes[decoding] = decoding
        return lanes
