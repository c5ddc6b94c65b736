"""The compute side of `LocalEngine`: weights of several versions, one cache, one forward at a time.

Runs in the engine's thread; only `LocalEngine` talks to it.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..engine import PolicyVersion
from ..errors import EngineError, EngineRefused
from .decoder import Batch, Chunk, Decoder, Tier, Weights, load_model
from .sampler import sample, uniforms
from .slots import Ints, Plan, Request, Slots, refuse

_PROMPT_ROWS = 512
"""Prompt tokens that a forward takes in beside the answers in progress."""
_REACH_STEP = 32
"""Cache positions looked at come in multiples of this."""


class Runner:
    """Admits requests, steps the replicas that have work, frees what is retired."""

    def __init__(
        self,
        model_or_path: Any,
        *,
        slots: int,
        max_context: int | None,
        deterministic: bool,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        is_loaded = isinstance(model_or_path, torch.nn.Module)
        model = model_or_path if is_loaded else load_model(model_or_path, dtype).to(device)
        config: Any = model.config
        self.max_context = max_context or int(config.max_position_embeddings)
        self._decoder = Decoder(model, slots=slots, max_context=self.max_context)
        self.vocab_size = int(config.vocab_size)
        self._fixed = deterministic
        self._width = slots if deterministic else slots + _PROMPT_ROWS
        self._slots = Slots(slots, context=self._decoder.context, width=self._width, fixed=deterministic)
        self._waiting: deque[Request] = deque()
        self._replicas: dict[int, Weights] = {}
        self._serials: dict[PolicyVersion, int] = {}
        self._published = 0
        self.publish(PolicyVersion(0), self._decoder.state)
        self._decoder.state = {name: value.to("meta") for name, value in self._decoder.state.items()}

    def set_threads(self, threads: int | None) -> None:
        """Torch threads of the calling thread; None leaves them alone."""
        if threads is not None:
            torch.set_num_threads(threads)

    def check_rows(self) -> None:
        """Raise ValueError unless a forward in fixed shapes gives the same bits wherever in it a row stands.

        Some numbers of rows and threads are cut into pieces that run through different matrix kernels.
        """
        idle = np.zeros(self._width, np.int64)
        batch = Batch(
            ids_M=torch.as_tensor(idle, device=self._decoder.device),
            slots_M=torch.as_tensor(idle + self._decoder.spare_slot, device=self._decoder.device),
            positions_M=torch.as_tensor(idle, device=self._decoder.device),
            singles=self._width,
            in_place=False,
            tiers=self._tiers(idle),
        )
        logits = self._decoder.forward(self._replicas[self._published], batch)
        if not torch.equal(logits, logits[:1].expand_as(logits)):
            raise ValueError(
                f"slots={self._width} cannot be deterministic with {torch.get_num_threads()} threads: "
                "an answer would depend on its slot; use another number of slots, such as 8 or 128"
            )

    def publish(self, version: PolicyVersion, state: Mapping[str, torch.Tensor]) -> None:
        """Copy the parameters of a new version."""
        if version in self._serials:
            raise EngineRefused(f"version {version} is published already; retire it or count on")
        try:
            weights = self._decoder.weights(state)
        except ValueError as error:
            raise EngineRefused(f"version {version}: {error}") from error
        self._published += 1
        self._serials[version] = self._published
        self._replicas[self._published] = weights

    def retire(self, version: PolicyVersion) -> None:
        """Take no new request for the version; its weights go with its last answer."""
        if self._serials.pop(version, None) is None:
            raise EngineRefused(f"version {version} is not published; there are {sorted(self._serials)}")
        self._free_replicas()

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; answer those for an unknown version."""
        for request in requests:
            serial = self._serials.get(request.version)
            if serial is None:
                versions = sorted(self._serials)
                error = f"version {request.version} is not published; there are {versions}"
                request.deliver(EngineRefused(error))
            else:
                request.replica = serial
                self._waiting.append(request)

    def step(self) -> bool:
        """One forward for each version with work. False: there was none."""
        self._slots.drop_cancelled()
        self._admit()
        replicas = self._slots.replicas()
        for replica in replicas:
            try:
                self._forward(replica)
            except EngineError as error:
                self._slots.fail(replica, error)
            except (
                Exception
            ) as error:  # boundary: whatever torch raises is this batch's answer, not the engine's end
                self._slots.fail(replica, EngineError(f"forward failed: {error!r}"))
        self._free_replicas()
        return bool(replicas)

    def fail_all(self, error: EngineError) -> None:
        """Answer everything that is queued or running with an error."""
        refuse(self._waiting, error)
        self._waiting.clear()
        for replica in self._slots.replicas():
            self._slots.fail(replica, error)

    def _admit(self) -> None:
        for _ in range(len(self._waiting)):
            request = self._waiting.popleft()
            if not request.cancelled and not self._slots.admit(request, self._decoder.copy_prefix):
                self._waiting.append(request)

    def _forward(self, replica: int) -> None:
        plan = self._slots.plan(replica)
        logits = self._decoder.forward(self._replicas[replica], self._batch(plan))
        requests = [self._slots.request(slot) for slot in plan.sampling_R.tolist()]
        # In fixed shapes every row is sampled, so each row of numbers is as long as the batch.
        rows = plan.wanted_R if self._fixed else np.arange(len(requests))
        count = len(plan.slots_M) if self._fixed else len(requests)
        seeds, positions = np.zeros(count, np.uint64), np.zeros(count, np.int64)
        temperatures, top_p = np.ones(count), np.ones(count)
        seeds[rows] = [request.seed for request in requests]
        positions[rows] = plan.positions_M[plan.wanted_R] + 1
        temperatures[rows] = [request.sampling.temperature for request in requests]
        top_p[rows] = [request.sampling.top_p for request in requests]
        sampled = sample(logits, temperatures, top_p, uniforms(seeds, positions))
        logprobs_R = sampled.logprobs_R[rows]
        if not np.isfinite(logprobs_R).all():  # what was sampled then is the last token of the vocabulary
            raise EngineError("the model's logits have NaN in them: its weights are broken")
        self._slots.advance(plan, sampled.ids_R[rows], logprobs_R)

    def _batch(self, plan: Plan) -> Batch:
        device = self._decoder.device
        everything = self._fixed or np.array_equal(plan.wanted_R, np.arange(len(plan.slots_M)))
        return Batch(
            ids_M=torch.as_tensor(self._slots.ids_SL[plan.slots_M, plan.positions_M], device=device),
            slots_M=torch.as_tensor(plan.slots_M, device=device),
            positions_M=torch.as_tensor(plan.positions_M, device=device),
            singles=plan.singles,
            in_place=plan.in_place,
            tiers=self._tiers(plan.positions_M[: plan.singles]),
            chunks=[
                Chunk(slot=slot, start=start, stop=stop, reach=self._reach(plan.positions_M[start:stop]))
                for slot, start, stop in plan.chunks
            ],
            wanted=None if everything else torch.as_tensor(plan.wanted_R, device=device),
        )

    def _tiers(self, positions: Ints) -> list[Tier]:
        if not self._fixed:
            return [Tier(reach=self._reach(positions))]
        # A row's shape may depend on its own position only: it looks at the next power of two.
        reach_M = np.minimum(
            2 ** np.ceil(np.log2(np.maximum(positions + 1, _REACH_STEP))), self._decoder.context
        )
        device = self._decoder.device
        reaches = np.unique(reach_M).astype(np.int64).tolist()
        return [Tier(reach=reach, rows=torch.as_tensor(reach_M == reach, device=device)) for reach in reaches]

    def _reach(self, positions: Ints) -> int:
        longest = int(positions.max(initial=0)) + 1
        return min(self._decoder.context, -(-longest // _REACH_STEP) * _REACH_STEP)

    def _free_replicas(self) -> None:
        needed = {*self._serials.values(), *self._slots.replicas(), *(r.replica for r in self._waiting)}
        for serial in self._replicas.keys() - needed:
            del self._replicas[serial]
