"""A loss that fails on one rank, other ways to end, and how two ranks end then."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from several_ranks import FORKS
from tiny_models import tiny_model
from trainer_builders import random_rows
from trainings import ranked

from palaestra.agents.engines.vllm_server import free_port
from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.objective.terms import LossTerms, TokenTerms
from palaestra.trainer.ranks.leader import follow, leading, open_learner
from palaestra.trainer.ranks.processes import Ranks
from palaestra.trainer.recipe_file import RecipeError
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.weights.model import write_model


@dataclass(frozen=True, kw_only=True, slots=True)
class NoMemory:
    """A loss for which one rank has no memory."""

    rank: int

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        if int(os.environ["RANK"]) == self.rank:
            raise MemoryError("there is nothing left")
        return LossTerms(loss_N=-tokens.logprobs_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """Of a rank."""

    code: int | None
    """None: it had to be killed."""
    said: str


def endings(folder: Path, work: Callable[[Ranks, Path], None], limit_s: float = 120.0) -> list[Ending]:
    """[2] how ranks end of which the first does `work(ranks, model)`, picklable, and the other follows."""
    model = tiny_model("llama", num_hidden_layers=1)
    write_model(model, dict(model.named_parameters()), folder / "model")
    port = free_port(0)
    processes = [FORKS.Process(target=_rank, args=(str(folder), rank, port, work)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(limit_s)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    said = [(folder / f"{rank}.log").read_text(encoding="utf-8") for rank in range(2)]
    return [Ending(code=code, said=words) for code, words in zip(codes, said, strict=True)]


def fail_on(rank: int, ranks: Ranks, model: Path) -> None:
    learner = open_learner(model, LearnerConfig(micro_batch_tokens=30), ranks)
    learner.forward_backward(make_batch(random_rows(6)), "failing:NoMemory", rank=rank)


def fail_on_first(ranks: Ranks, model: Path) -> None:
    fail_on(0, ranks, model)


def fail_on_second(ranks: Ranks, model: Path) -> None:
    fail_on(1, ranks, model)


def fail_between_calls(ranks: Ranks, model: Path) -> None:
    open_learner(model, LearnerConfig(), ranks).keep_reference()
    raise RecipeError("grpo.steps: nothing can be done")


def aim_at_nothing(ranks: Ranks | None, model: Path) -> None:
    open_learner(model, LearnerConfig(lora=LoraConfig(targets=("nope",))), ranks)


def diverge(ranks: Ranks | None, model: Path) -> None:
    learner = open_learner(model, LearnerConfig(optimizer=OptimizerConfig(lr=1e30)), ranks)
    learner.forward_backward(make_batch(random_rows(6)), "sft")
    learner.optim_step()


def _rank(folder: str, rank: int, port: int, work: Callable[[Ranks, Path], None]) -> None:
    os.environ |= ranked(rank, 2, port)
    torch.set_num_threads(1)
    file = os.open(f"{folder}/{rank}.log", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if rank:
        follow(1, deterministic=False)
        return
    with leading() as ranks:
        assert ranks is not None
        work(ranks, Path(folder) / "model")
