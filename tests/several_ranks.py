"""Work for several processes that share a learner, and how a test has it done."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from trainer_builders import make_learner, make_llama_learner
from trainings import ranked

from palaestra.agents.engines.vllm_server import free_port
from palaestra.trainer.batches.rows import Row, make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.ranks.processes import Ranks
from palaestra.trainer.ranks.sharding import whole
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.weights.checkpoint import load_checkpoint, save_checkpoint

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["palaestra.cli.main", "palaestra.trainer.run", "reasoning_gym"])
LIMIT_S = 120.0


def together(folder: Path, work: Callable[..., Any], *arguments: Any, world: int = 2) -> list[Any]:
    """[world] what `work(ranks, *arguments)` returns in as many processes; it has to be picklable."""
    port = free_port(0)
    processes = [
        FORKS.Process(target=_one, args=(str(folder), rank, world, port, work, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT_S)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    assert codes == [0] * world, "a rank failed, or hung"
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def _one(
    folder: str, rank: int, world: int, port: int, work: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    os.environ |= ranked(rank, world, port)
    torch.set_num_threads(1)
    ranks = Ranks.open()
    torch.save(work(ranks, *arguments), Path(folder) / f"{rank}.pt")
    ranks.close()


def gradient(learner: Learner) -> torch.Tensor:
    return torch.cat([whole(p.grad).flatten() for p in learner.parameters.values() if p.grad is not None])


def backward(ranks: Ranks, share: list[list[Row]], aggregation: str) -> Any:
    config = LearnerConfig(micro_batch_tokens=30)
    learner = make_learner(config, ranks)
    report = learner.forward_backward(make_batch(share[ranks.rank], aggregation))
    return report.loss, gradient(learner)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A way to compute a batch's loss and gradient."""

    config: LearnerConfig = field(default_factory=LearnerConfig)
    is_llama: bool = False
    """In fp32; otherwise the GPT-2 in fp64."""
    has_round_norms: bool = False
    """Do the weights of the layers' norms lose nothing in bfloat16, in which they travel?"""
    loss: str = "ppo_clip"
    aggregation: str = "token"
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def loss_and_gradient(
    case: Case, rows: Sequence[Row], ranks: Ranks | None = None
) -> tuple[float, torch.Tensor]:
    config = replace(case.config, micro_batch_tokens=40)
    base = torch.float32 if config.lora is None else getattr(torch, config.lora.base_dtype)
    learner = make_llama_learner(config, base, ranks=ranks) if case.is_llama else make_learner(config, ranks)
    for name, parameter in learner.parameters.items() if case.has_round_norms else ():
        if ".layers." in name and "norm" in name:
            parameter.data.copy_(parameter.data.to(torch.bfloat16))
    max_tokens = 20 if case.aggregation == "constant" else None
    batch = make_batch(rows, case.aggregation, max_tokens=max_tokens)
    report = learner.forward_backward(batch, case.loss, **case.options)
    return report.loss, gradient(learner)


def computing(ranks: Ranks, rows: Sequence[Row], dtype: Literal["float32", "bfloat16"]) -> Any:
    """The precisions of the whole weights inside a pass, in a layer and outside, and of the gradients."""
    learner = make_llama_learner(LearnerConfig(dtype=dtype), ranks=ranks)
    inside: dict[str, torch.dtype] = {}
    model: Any = learner.model  # partly untyped

    def watch(name: str, module: Any) -> None:
        def note(*_: Any) -> None:
            inside[name] = module.weight.dtype

        module.register_forward_pre_hook(note)

    for name in ("model.layers.0.mlp.up_proj", "model.layers.0.input_layernorm", "model.norm"):
        watch(name, model.get_submodule(name))
    learner.forward_backward(make_batch(rows))
    return inside, {p.grad.dtype for p in learner.parameters.values() if p.grad is not None}


def each_case(ranks: Ranks, share: list[list[Row]], cases: dict[str, Case]) -> Any:
    return {name: loss_and_gradient(case, share[ranks.rank], ranks) for name, case in cases.items()}


def steps(ranks: Ranks | None, folder: Path, share: list[list[Row]], lora: LoraConfig | None) -> Any:
    """Three optimizer steps, a checkpoint after the second, and all that a learner can be asked for."""
    optimizer = OptimizerConfig(lr=1e-2, max_grad_norm=0.5, weight_decay=0.1)
    config = LearnerConfig(micro_batch_tokens=60, lora=lora, optimizer=optimizer)
    rows = share[0 if ranks is None else ranks.rank]
    learner = make_llama_learner(config, ranks=ranks)
    learner.keep_reference()
    norms = [step(learner, rows) for _ in range(2)]
    save_checkpoint(folder / "step", learner, {"cursor": 2})
    norms.append(step(learner, rows))
    learner.export_merged(folder / "merged")
    if lora is not None:
        learner.export_adapter(folder / "adapter")
    told = {
        "norms": norms,
        "logprobs": learner.logprobs(rows),
        "reference": learner.reference_logprobs(rows),
        "state": {name: tensor.clone() for name, tensor in learner.state_for_engine().items()},
    }
    load_checkpoint(folder / "step", learner)
    return told | {"again": step(learner, rows), "state again": dict(learner.state_for_engine())}


def step(learner: Learner, rows: Sequence[Row]) -> float:
    learner.forward_backward(make_batch(rows), "sft")
    return learner.optim_step().grad_norm
