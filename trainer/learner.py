"""The learner: rows in, gradients, weights out. Usable without the loop:

learner = Learner(load_model(path), LearnerConfig(optimizer=OptimizerConfig(lr=1e-4)))
report = learner.forward_backward(make_batch(rows), loss="ppo_clip", clip_high=0.28)
learner.optim_step()
learner.save(folder)
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from transformers import PreTrainedModel

from ._torch import (
    backward,
    checkpoint_layers,
    hidden_states,
    output_head,
    step,
    to_device,
)
from .batches.logprobs import Head, TokenLogprobs
from .batches.packing import (
    MicroBatch,
    Trained,
    micro_batches,
    scatter,
    token_weights,
)
from .batches.rows import Batch, Row, expect_sampled
from .config import LearnerConfig, usual_chunk
from .errors import Diverged
from .losses import load_loss
from .objective.correction import TOKEN_TIS, Correction
from .objective.kl import KlPenalty
from .objective.objective import Objective, batch_terms
from .ranks.processes import Ranks
from .ranks.sharding import (
    Policy,
    collected,
    idle_loss,
    idle_pass,
    shard,
    whole,
    without_gradient,
)
from .reference import Reference
from .reporting.flops import shape_of
from .reporting.reports import LossReport, StepReport, Tally
from .schedule import OptimizerConfig, learning_rate
from .weights.adapters import add_adapter, merged_state, parameter_groups, save_adapter
from .weights.checks import expect_full_precision, prepare_model
from .weights.fit import (
    adapter_alpha,
    base_hashes,
    expect_alpha,
    take_slots,
    take_weights,
    write_base,
)
from .weights.model import write_model


class Learner:
    """Trains `model` in place, whole or by an adapter."""

    def __init__(
        self, model: PreTrainedModel, config: LearnerConfig | None = None, ranks: Ranks | None = None
    ) -> None:
        """`ranks`: share the model with these processes. Then every rank makes every call, with rows of its
        own; an episode's rows stay on one rank."""
        self.config = config or LearnerConfig()
        self.ranks = ranks
        self.model = to_device(model, str(model.device))
        prepare_model(model)
        self._shape = shape_of(model)
        self._adapted: Any = None
        if self.config.lora is not None:
            self._adapted = add_adapter(model, self.config.lora, self.config.seed)
            self._shape = self._shape and self._shape.with_adapter(model)
        if self.config.activation_checkpointing:
            checkpoint_layers(model)
        self._policy = Policy(model)
        if ranks is not None:
            shard(self._policy, ranks)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.reference: Reference | None = None
        """The trained parameters as `keep_reference` found them."""
        expect_full_precision(self.parameters)
        self.restart(self.config.optimizer)

    def restart(self, config: OptimizerConfig) -> None:
        """A fresh optimizer at step 0; the weights stay."""
        self.optimizer_config = config
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.parameters, config, self.config.lora),
            lr=config.lr, betas=config.betas, eps=config.eps, fused=True,
        )  # fmt: skip
        self.num_steps = 0
        """Optimizer steps since the last restart."""

    def forward_backward(
        self,
        batch: Batch,
        loss: str = "ppo_clip",
        *,
        correction: Correction | None = TOKEN_TIS,
        kl: KlPenalty | None = None,
        entropy_bonus: float = 0.0,
        weight: float = 1.0,
        temperature: float | None = None,
        **options: Any,
    ) -> LossReport:
        """Add the batch's gradient, times `weight`, to what is there.

        `options` are the loss's own, `correction`, `kl` and `entropy_bonus` as in `Objective`; `temperature`
        overrides the config's. Loss and gradient do not depend on the order of the rows, nor on how they fall
        into micro-batches. Several calls before an `optim_step` add up, as of a loss and of "sft" on other
        rows.
        """
        objective = Objective(
            loss=load_loss(loss, **options), correction=correction, kl=kl, entropy_bonus=entropy_bonus
        )
        if objective.needs_sampled:
            expect_sampled(batch.rows)
        micros = self._micro_batches(batch.rows, whole_episodes=objective.needs_episodes)
        tally = Tally(batch.rows, micros, self._shape)
        normaliser = batch.normaliser if self.ranks is None else self.ranks.total(batch.normaliser)

        def part_loss(part: Trained, found: TokenLogprobs) -> Tensor:
            tokens = batch_terms(part, batch, found.logprobs_N, found.entropy_N)
            terms = objective(tokens)
            weights_N = token_weights(part, batch.rows, normaliser, terms.loss_N)
            total = weight * (terms.loss_N * weights_N).sum()
            tally.add(part, total, tokens, terms)
            return total

        if self.ranks is None:
            head = self._head(temperature)
            for micro in micros:
                head.backward(self._hidden(micro), micro.parts(head.chunk), part_loss)
            return tally.report()
        num_idle = self._num_idle(len(micros))
        for micro in micros:
            backward(part_loss(micro.trained, self._in_one_pass(micro, temperature)))
        for _ in range(num_idle):
            backward(idle_loss(self._in_one_pass(idle_pass(self.model.device), None).logprobs_N))
        return tally.report()

    def optim_step(self) -> StepReport:
        """Clip, step, forget the gradient. One that is not finite is thrown away, and the report says so.

        Raises `Diverged` when the step has broken the weights.
        """
        parameters = list(self.parameters.values())
        if all(parameter.grad is None for parameter in parameters):
            raise ValueError("no gradient: call forward_backward, with at least one trained token, first")
        lr = learning_rate(self.optimizer_config, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_ratio"]
        norm = float(whole(clip_grad_norm_(parameters, self.optimizer_config.max_grad_norm)))
        is_finite = math.isfinite(norm)
        if is_finite:
            step(self.optimizer)
            self.num_steps += 1
            self._expect_weights(lr, norm)
        self.optimizer.zero_grad()
        return StepReport(grad_norm=norm, lr=lr, is_skipped=not is_finite)

    def _expect_weights(self, lr: float, grad_norm: float) -> None:
        """Weights whose squares overflow are as good as NaN: a forward pass multiplies them."""
        if not math.isfinite(whole(get_total_norm(self.parameters.values()))):
            raise Diverged(
                f"optimizer step {self.num_steps} (lr {lr:g}, gradient norm {grad_norm:.3g}) left weights "
                "whose norm is not finite; what was kept before is whole. Start a new run with a lower lr"
            )

    def logprobs(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        """[rows][T] the policy's logprobs of the trained tokens, nats; 0.0 elsewhere."""
        return self._logprobs(rows)

    def _logprobs(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        found = [[0.0] * len(row.tokens.ids) for row in rows]
        micros = self._micro_batches(rows)
        num_idle = self._num_idle(len(micros))
        with without_gradient(self._policy):
            for micro in micros:
                for part, got in self._word_on(micro):
                    scatter(part, got.logprobs_N, found)
            for _ in range(num_idle):
                self._in_one_pass(idle_pass(self.model.device), None)
        return [tuple(row) for row in found]

    def keep_reference(self) -> None:
        """Remember the policy as it is now: the one that `reference_logprobs` and a KL penalty mean."""
        self.reference = Reference(self.parameters, in_parts=self.ranks is not None)

    def reference_logprobs(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        """As `logprobs`, of the policy that `keep_reference` remembered."""
        if self.reference is None:
            raise ValueError("no reference policy: call keep_reference before training starts")
        with self.reference.in_place():
            return self._logprobs(rows)

    def state_for_engine(self) -> Mapping[str, Tensor]:
        """Every parameter by its name in the plain model, an adapter merged in. Copy before you keep.

        Of several ranks all call, and only the first gets something; so for `tensors`, `optimizer_tensors`.
        """
        weights = collected(((name, p.detach()) for name, p in self.model.named_parameters()), self.ranks)
        return merged_state(self.model, weights) if self.is_first else {}

    def export_adapter(self, folder: Path) -> None:
        """Write the adapter in peft's format, which vLLM loads."""
        if self._adapted is None:
            raise ValueError("every parameter is trained, there is no adapter; use export_merged")
        tensors = Learner.tensors(self)
        if self.is_first:
            save_adapter(self._adapted, tensors, folder)
            write_base(self.model.name_or_path, self.base_sha256, str(self.model.dtype), folder)

    def export_merged(self, folder: Path) -> None:
        """Write a whole model, an adapter merged in, with its tokenizer."""
        state = Learner.state_for_engine(self)
        if self.is_first:
            write_model(self.model, state, folder)

    def save(self, folder: Path) -> None:
        """Write what was trained: the adapter, or the whole model."""
        if self._adapted is None:
            self.export_merged(folder)
        else:
            self.export_adapter(folder)

    def tensors(self) -> Mapping[str, Tensor]:
        """What is trained, by name, whole."""
        return collected(((name, p.detach()) for name, p in self.parameters.items()), self.ranks)

    def optimizer_tensors(self) -> Mapping[str, Tensor]:
        """AdamW's slots as "parameter/slot", whole."""
        slots = (
            (f"{name}/{slot}", value)
            for name, parameter in self.parameters.items()
            for slot, value in self.optimizer.state.get(parameter, {}).items()
        )
        return collected(slots, self.ranks)

    def load_tensors(self, weights: Path, optimizer: Path | None, num_steps: int) -> None:
        """Take what `tensors` and `optimizer_tensors` gave, from files; without the latter, as `restart`."""
        take_weights(weights, self.parameters)
        Learner.restart(self, self.optimizer_config)
        self.num_steps = num_steps
        if optimizer is not None:
            take_slots(optimizer, self.parameters, self.optimizer.state)

    @cached_property
    def base_sha256(self) -> Mapping[str, str]:
        """Hashes of the files under an adapter, by name; reads them all. Empty without an adapter."""
        return {} if self._adapted is None else base_hashes(self.model.name_or_path)

    @property
    def is_first(self) -> bool:
        """Of all ranks it is the first that writes."""
        return self.ranks is None or self.ranks.rank == 0

    def _num_idle(self, num_passes: int) -> int:
        """Passes over nothing, so that all ranks make as many: in each, weights are gathered from all."""
        return 0 if self.ranks is None else self.ranks.most(num_passes) - num_passes

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote for the same model and config, with a fresh optimizer.

        For one that goes on exactly, see `checkpoint.py`. Raises `ValueError` for an adapter of another rank,
        alpha or targets.
        """
        if self._adapted is not None and (folder / "adapter_config.json").is_file():
            expect_alpha(adapter_alpha(folder), self.config.lora, folder)
        name = "model.safetensors" if self._adapted is None else "adapter_model.safetensors"
        self.load_tensors(folder / name, None, 0)

    def _micro_batches(self, rows: Sequence[Row], *, whole_episodes: bool = False) -> list[MicroBatch]:
        return micro_batches(
            rows,
            self.config.micro_batch_tokens,
            self.model.device,
            share_from=self.config.share_prefixes_from,
            whole_episodes=whole_episodes,
        )

    def _hidden(self, micro: MicroBatch) -> Tensor:
        with self._autocast():
            return hidden_states(self.model, micro.inputs_T, micro.positions_T, micro.layout)

    def _head(self, temperature: float | None) -> Head:
        return Head(
            module=output_head(self.model),
            temperature=self.config.temperature if temperature is None else temperature,
            chunk=self.config.logit_chunk or usual_chunk(self.model.config.vocab_size),
            dtype=None if self.config.dtype == "float32" else torch.bfloat16,
        )

    def _in_one_pass(self, micro: MicroBatch, temperature: float | None) -> TokenLogprobs:
        """For a model in shards, whose weights are whole inside of its forward pass only."""
        with self._autocast():
            logprobs_N, entropy_N = self._policy(micro, self._head(temperature))
        return TokenLogprobs(logprobs_N=logprobs_N, entropy_N=entropy_N)

    def _word_on(self, micro: MicroBatch) -> list[tuple[Trained, TokenLogprobs]]:
        """The policy's word on a micro-batch, without a gradient."""
        if self.ranks is not None:
            return [(micro.trained, self._in_one_pass(micro, None))]
        head = self._head(None)
        parts = micro.parts(head.chunk)
        return list(zip(parts, head.logprobs(self._hidden(micro), parts), strict=True))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16)
