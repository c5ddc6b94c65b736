"""An engine that says what a script tells it to: deterministic, without a model, with faults on demand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..engine import Finish, Generation, PolicyVersion, Sampling, VersionSpan, WeightUpdate
from ..errors import EngineError, EngineRefused


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptedCall:
    """What a script gets to see."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    policy: PolicyVersion
    seed: int
    number: int
    """Calls that this engine got before."""


Script = Callable[[ScriptedCall], Sequence[int]]
"""The whole answer, the stop token included. The engine cuts it at the stop token and at `max_tokens`."""


def in_turn(answers: Sequence[Sequence[int]]) -> Script:
    """Answer number i to call number i, from the start again when all were given."""
    return lambda call: answers[call.number % len(answers)]


class ScriptedEngine:
    """A real `Engine` for tests and examples.

    >>> engine = ScriptedEngine(in_turn([[5, 6, 2], [7, 2]]))
    """

    def __init__(
        self,
        script: Script,
        *,
        logprob: Callable[[ScriptedCall, int], float] = lambda call, index: -0.5,
        fail_when: Callable[[ScriptedCall], bool] = lambda call: False,
        max_context: int = 4096,
    ) -> None:
        """`logprob(call, i)` is the i-th sampled token's; `fail_when` turns a call into `EngineError`."""
        self.max_context = max_context
        self.calls: list[ScriptedCall] = []
        """Every call, the failed ones included."""
        self.updates: list[WeightUpdate] = []
        self.live: set[PolicyVersion] = {PolicyVersion(0)}
        """Versions that can be asked for."""
        self._script, self._logprob, self._fail_when = script, logprob, fail_when

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, policy: PolicyVersion, seed: int
    ) -> Generation:
        call = ScriptedCall(
            prompt_ids=tuple(prompt_ids), sampling=sampling, policy=policy, seed=seed, number=len(self.calls)
        )
        self.calls.append(call)
        if self._fail_when(call):
            raise EngineError(f"scripted failure of call {call.number}")
        if policy not in self.live:
            raise EngineRefused(f"policy {policy} is not loaded; loaded are {sorted(self.live)}")
        room = min(sampling.max_tokens, self.max_context - len(call.prompt_ids))
        if room < 1:
            raise EngineRefused(f"{len(call.prompt_ids)} prompt tokens leave no room in {self.max_context}")
        ids = _cut(tuple(self._script(call)), sampling.stop_ids, room)
        return Generation(
            ids=ids,
            logprobs=tuple(self._logprob(call, index) for index in range(len(ids))),
            versions=(VersionSpan(version=policy, start=0, end=len(ids)),),
            finish=Finish.STOP if ids and ids[-1] in sampling.stop_ids else Finish.LENGTH,
        )

    async def publish(self, update: WeightUpdate) -> PolicyVersion:
        self.updates.append(update)
        self.live.add(update.version)
        return update.version

    async def retire(self, version: PolicyVersion) -> None:
        self.live.discard(version)

    async def close(self) -> None:
        self.live.clear()


def _cut(ids: tuple[int, ...], stop_ids: tuple[int, ...], room: int) -> tuple[int, ...]:
    stop = next((index for index, id in enumerate(ids) if id in stop_ids), len(ids))
    return ids[: min(stop + 1, room)]
