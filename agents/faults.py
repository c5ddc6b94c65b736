"""An engine that fails on purpose; `palaestra.envs.faults` does the same to tools and graders."""

from collections.abc import Sequence

from ..envs.faults import Fault, Faults
from .engine import Engine, Generation, PolicyVersion, Sampling, WeightUpdate
from .errors import EngineError


class FaultyEngine:
    """An engine around another one: some calls get `EngineError`, as after a server's last 500.

    engine = FaultyEngine(engine, Faults(seed=0, rates={Fault.ENGINE_ERROR: 0.1}))
    """

    def __init__(self, engine: Engine, faults: Faults) -> None:
        self._engine, self._faults = engine, faults
        self.max_context = engine.max_context

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, policy: PolicyVersion, seed: int
    ) -> Generation:
        if fault := self._faults.strike(Fault.ENGINE_ERROR, seed):
            raise EngineError(f"500 Internal Server Error: {fault}")
        return await self._engine.generate(prompt_ids, sampling, policy=policy, seed=seed)

    async def publish(self, update: WeightUpdate) -> PolicyVersion:
        return await self._engine.publish(update)

    async def retire(self, version: PolicyVersion) -> None:
        await self._engine.retire(version)

    async def close(self) -> None:
        await self._engine.close()
