"""Weights on their way from the learner to the engine, as numbered versions."""

import asyncio
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..agents.canary import USUAL_BOUNDS, DriftBound, PolicyDrift, canary
from ..agents.engine import Engine, PolicyVersion, WeightUpdate, policy_name
from ..agents.trajectory import EpisodeKey
from .folder import writing
from .ranks.leader import AnyLearner
from .recipe import Recipe
from .warm_start import demonstration_row

PROBE = EpisodeKey(split="canary", epoch=0, task_id="probe", sample=0)


def answer_logprobs(learner: AnyLearner, prompt: Sequence[int], answer: Sequence[int]) -> Sequence[float]:
    """[len(answer)] the learner's log-probabilities of an answer's tokens, nats."""
    row = demonstration_row(PROBE, [*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
    return learner.logprobs([row])[0][len(prompt) :]


def drift_bound(recipe: Recipe) -> DriftBound:
    """How far the recipe lets its engine be from the learner."""
    given = recipe.engine.canary_bound
    return USUAL_BOUNDS[recipe.model.dtype] if given is None else DriftBound(largest=given)


class Publisher:
    """Publishes, checks with the canary, and retires the version before."""

    def __init__(
        self,
        learner: AnyLearner,
        engine: Engine,
        *,
        adapters: Path | None,
        probes: Sequence[Sequence[int]] = (),
        bound: DriftBound | None = None,
    ) -> None:
        """`adapters`: folder for what an engine in another process loads: adapters, or without `lora` whole
        models; None hands over the tensors.

        `probes`: [num][T] prompts for the canary; empty for an engine that shares our arithmetic. `bound`
        None: what is usual for the learner's precision.
        """
        self._learner, self._engine, self._adapters = learner, engine, adapters
        self._probes, self._bound = probes, bound or USUAL_BOUNDS[learner.config.dtype]
        self._newest = PolicyVersion(0)
        self.drift: float | None = None
        """Largest difference of engine and learner at the last check, nats; None: nobody has looked."""
        self.mean_drift: float | None = None
        """The mean one."""

    @property
    def metrics(self) -> dict[str, float]:
        """What the last check found; nothing where nobody has looked."""
        if self.drift is None or self.mean_drift is None:
            return {}
        return {"engine_drift": self.drift, "engine_drift_mean": self.mean_drift}

    async def publish(self, version: PolicyVersion) -> None:
        """Bring the learner's weights to the engine. Raises `PolicyDrift` if others arrive."""
        await self._engine.publish(await asyncio.to_thread(self._update, version))
        if self._probes:
            await self._check(version)
        if self._newest != version:
            await self._retire(self._newest)
        self._newest = version

    async def expect_start(self) -> None:
        """Before the first step: does the engine hold the model that the learner starts from?

        Raises `PolicyDrift` if not.
        """
        if not self._probes:
            return
        try:
            await self._check(PolicyVersion(0))
        except PolicyDrift as drift:
            raise PolicyDrift(
                f"before the first step: {drift}, or reports other log-probabilities than those it samples by"
            ) from drift

    async def _check(self, version: PolicyVersion) -> None:
        """Ask the engine a few prompts and compare its log-probabilities with the learner's."""
        temperature = self._learner.config.temperature
        report = await canary(
            self._engine,
            partial(answer_logprobs, self._learner),
            version,
            self._probes,
            self._bound,
            temperature=temperature,
        )
        self.drift, self.mean_drift = report.max_drift, report.mean_drift

    def _update(self, version: PolicyVersion) -> WeightUpdate:
        if self._adapters is None:
            return WeightUpdate(version=version, state=self._learner.state_for_engine())
        folder = self._adapters / policy_name(version)
        is_whole = self._learner.config.lora is None
        with writing(folder):
            self._learner.save(folder)
        if is_whole:
            return WeightUpdate(version=version, model=folder)
        return WeightUpdate(version=version, adapter=folder)

    async def _retire(self, version: PolicyVersion) -> None:
        await self._engine.retire(version)
        if self._adapters is not None:
            await asyncio.to_thread(shutil.rmtree, self._adapters / policy_name(version), ignore_errors=True)
