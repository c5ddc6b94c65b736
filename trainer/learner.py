"""The learner: rows in, gradients, weights out. Usable without the loop:

learner = Learner(load_model(path), LearnerConfig(optimizer=OptimizerConfig(lr=1e-4)))
report = learner.forward_backward(make_batch(rows), loss="ppo_clip", clip_high=0.28)
learner.optim_step()
learner.save(folder)
"""

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from transformers import PreTrainedModel

from ._torch import checkpoint_layers, hidden_states, output_head, step, to_device
from .adapters import add_adapter, merged_state, save_adapter
from .checks import prepare_model
from .config import LearnerConfig
from .errors import Diverged
from .kl import KlPenalty
from .logprobs import Head, TokenLogprobs, usual_chunk
from .losses import load_loss
from .model import write_model
from .packing import MicroBatch, Trained, micro_batches, scatter, token_terms, token_weights
from .reports import LossReport, StepReport, Tally, evaluate
from .rows import Batch, Row
from .schedule import OptimizerConfig, learning_rate


class Learner:
    """Trains `model` in place, whole or by an adapter."""

    def __init__(self, model: PreTrainedModel, config: LearnerConfig | None = None) -> None:
        self.config = config or LearnerConfig()
        self.model = to_device(model, str(model.device))
        prepare_model(model)
        self._adapted: Any = None
        if self.config.lora is not None:
            self._adapted = add_adapter(model, self.config.lora, self.config.seed)
        if self.config.activation_checkpointing:
            checkpoint_layers(model)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.reference: dict[str, Tensor] | None = None
        """The trained parameters as `keep_reference` found them."""
        low = [name for name, p in self.parameters.items() if p.dtype in (torch.bfloat16, torch.float16)]
        if low:
            raise ValueError(
                f"{low[0]} is to be trained in half precision, which loses small updates; load the model in "
                'float32 and set LearnerConfig.dtype to "bfloat16" to compute in it'
            )
        self.restart(self.config.optimizer)

    def restart(self, config: OptimizerConfig) -> None:
        """A fresh optimizer at step 0; the weights stay."""
        matrices = [p for p in self.parameters.values() if p.ndim >= 2]
        vectors = [p for p in self.parameters.values() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer_config = config
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.lr, betas=config.betas, eps=config.eps, fused=True,
        )  # fmt: skip
        self.num_steps = 0
        """Optimizer steps since the last restart."""

    def forward_backward(
        self,
        batch: Batch,
        loss: str = "ppo_clip",
        *,
        kl: KlPenalty | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> LossReport:
        """Add the batch's gradient to what is there.

        `options` are the loss's own; `temperature` overrides the config's. Loss and gradient do not depend on
        the order of the rows, nor on how they fall into micro-batches.
        """
        compute = load_loss(loss, **options)
        tally = Tally(batch.rows)

        def part_loss(part: Trained, found: TokenLogprobs) -> Tensor:
            tokens = token_terms(part, batch.rows, found.logprobs_N, found.entropy_N)
            terms = evaluate(tokens, compute, kl)
            total = (terms.loss_N * token_weights(part, batch.rows, batch.normaliser, terms.loss_N)).sum()
            tally.add(part, total, tokens, terms)
            return total

        head = self._head(temperature)
        for micro in self._micro_batches(batch.rows):
            head.backward(self._hidden(micro), micro.parts(head.chunk), part_loss)
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
            group["lr"] = lr
        norm = float(clip_grad_norm_(parameters, self.optimizer_config.max_grad_norm))
        is_finite = math.isfinite(norm)
        if is_finite:
            step(self.optimizer)
            self.num_steps += 1
            self._expect_weights(lr, norm)
        self.optimizer.zero_grad()
        return StepReport(grad_norm=norm, lr=lr, is_skipped=not is_finite)

    def _expect_weights(self, lr: float, grad_norm: float) -> None:
        """Weights whose squares overflow are as good as NaN: a forward pass multiplies them."""
        if not math.isfinite(get_total_norm(self.parameters.values())):
            raise Diverged(
                f"optimizer step {self.num_steps} (lr {lr:g}, gradient norm {grad_norm:.3g}) left weights "
                "whose norm is not finite; what was kept before is whole. Start a new run with a lower lr"
            )

    def logprobs(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        """[rows][T] the policy's logprobs of the trained tokens, nats; 0.0 elsewhere."""
        found = [[0.0] * len(row.tokens.ids) for row in rows]
        with torch.no_grad():
            head = self._head(None)
            for micro in self._micro_batches(rows):
                parts = micro.parts(head.chunk)
                for part, got in zip(parts, head.logprobs(self._hidden(micro), parts), strict=True):
                    scatter(part, got.logprobs_N, found)
        return [tuple(row) for row in found]

    def keep_reference(self) -> None:
        """Remember the policy as it is now: the one that `reference_logprobs` and a KL penalty mean.

        Only what is trained is copied; with an adapter that is little.
        """
        self.reference = {name: p.detach().clone() for name, p in self.parameters.items()}

    def reference_logprobs(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        """As `logprobs`, of the policy that `keep_reference` remembered."""
        with self._as_reference():
            return self.logprobs(rows)

    def state_for_engine(self) -> Mapping[str, Tensor]:
        """Every parameter by its name in the plain model, an adapter merged in. Copy before you keep."""
        return merged_state(self.model)

    def export_adapter(self, folder: Path) -> None:
        """Write the adapter in peft's format, which vLLM loads."""
        if self._adapted is None:
            raise ValueError("every parameter is trained, there is no adapter; use export_merged")
        save_adapter(self._adapted, folder)

    def export_merged(self, folder: Path) -> None:
        """Write a whole model, an adapter merged in, with its tokenizer."""
        write_model(self.model, merged_state(self.model), folder)

    def save(self, folder: Path) -> None:
        """Write what was trained: the adapter, or the whole model."""
        if self._adapted is None:
            self.export_merged(folder)
        else:
            self.export_adapter(folder)

    def _micro_batches(self, rows: Sequence[Row]) -> list[MicroBatch]:
        return micro_batches(
            rows,
            self.config.micro_batch_tokens,
            self.model.device,
            share_from=self.config.share_prefixes_from,
        )

    def _hidden(self, micro: MicroBatch) -> Tensor:
        with self._autocast():
            return hidden_states(self.model, micro.inputs_T, micro.positions_T, micro.layout)

    def _head(self, temperature: float | None) -> Head:
        module = output_head(self.model)
        return Head(
            module=module,
            temperature=self.config.temperature if temperature is None else temperature,
            chunk=self.config.logit_chunk or usual_chunk(self.model.config.vocab_size),
            dtype=None if self.config.dtype == "float32" else torch.bfloat16,
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16)

    @contextmanager
    def _as_reference(self) -> Generator[None]:
        if self.reference is None:
            raise ValueError("no reference policy: call keep_reference before training starts")
        self._swap(self.reference)
        try:
            yield
        finally:
            self._swap(self.reference)

    def _swap(self, reference: dict[str, Tensor]) -> None:
        """Exchange the trained parameters with the remembered ones, without a copy."""
        for name, parameter in self.parameters.items():
            parameter.data, reference[name] = reference[name], parameter.data
