"""Rows, episodes and learners for tests of the trainer."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tiny_models import tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from palaestra.agents.engine import Finish, Generation, PolicyVersion, VersionSpan
from palaestra.agents.tokengraph import TokenGraph, TokenRow
from palaestra.agents.trajectory import EpisodeKey, Group, Trajectory
from palaestra.envs import Episode, Outcome, Scored, StopReason, UserMessage
from palaestra.trainer.batches.rows import Batch, Row
from palaestra.trainer.config import LearnerConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.ranks.processes import Ranks

VOCAB = 97


def make_learner(config: LearnerConfig | None = None, ranks: Ranks | None = None) -> Learner:
    """A one-layer GPT-2 in fp64: unlike Llama, which computes its norms in fp32, it is exact to 1e-15."""
    untyped: Any = torch
    untyped.manual_seed(0)
    shape = GPT2Config(
        vocab_size=VOCAB, n_positions=32, n_embd=16, n_layer=1, n_head=2, initializer_range=0.3
    )
    model: Any = GPT2LMHeadModel(shape)
    return Learner(model.to(torch.float64), config, ranks)


def make_llama_learner(
    config: LearnerConfig | None = None, dtype: torch.dtype = torch.float32, ranks: Ranks | None = None
) -> Learner:
    return Learner(tiny_model("llama", num_hidden_layers=1, dtype=dtype), config, ranks)


def make_row(
    ids: Sequence[int],
    mask: Sequence[bool],
    *,
    advantage: float = 1.0,
    logprobs: Sequence[float] | None = None,
    task_id: str = "t",
    sample: int = 0,
    episode_tokens: int | None = None,
) -> Row:
    """`logprobs`: of the whole row; None: all 0, which is the engine of no test that looks at ratios."""
    tokens = TokenRow(
        ids=tuple(ids),
        mask=tuple(mask),
        logprobs=tuple(logprobs or (0.0,) * len(ids)),
        versions=tuple(0 if is_trained else -1 for is_trained in mask),
    )
    return Row(
        key=EpisodeKey(epoch=0, task_id=task_id, sample=sample),
        tokens=tokens,
        advantages=tuple(advantage if is_trained else 0.0 for is_trained in mask),
        episode_tokens=sum(mask) if episode_tokens is None else episode_tokens,
    )


def random_rows(num: int, *, seed: int = 0, longest: int = 24) -> list[Row]:
    """Turns of random length, sampled and not in turn; every third episode has two rows."""
    draw = random.Random(seed)
    rows: list[Row] = []
    for number in range(num):
        ids = [draw.randrange(VOCAB) for _ in range(draw.randrange(4, longest))]
        mask = [False, *(draw.random() < 0.5 for _ in ids[2:]), True]
        row = make_row(ids, mask, advantage=draw.gauss(0, 1), sample=number, logprobs=[-4.0] * len(ids))
        rows.append(row)
        if number % 3 == 0:
            twin = make_row(
                ids[::-1], mask, advantage=row.advantages[-1], sample=number, logprobs=row.tokens.logprobs
            )
            rows[-1:] = [replace(each, episode_tokens=2 * sum(mask)) for each in (row, twin)]
    return rows


def sibling_rows(num_groups: int, num: int, *, seed: int = 0) -> list[Row]:
    """Groups with a common prompt, in which some members share a turn too; two episodes are the same."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(VOCAB) for _ in range(count)]

    rows: list[Row] = []
    for group in range(num_groups):
        prompt, turn = ids(draw.randrange(3, 9)), ids(draw.randrange(1, 5))
        for sample in range(num):
            middle = turn if draw.random() < 0.6 else []
            whole = [*prompt, *middle, *ids(draw.randrange(1, 8))]
            mask = [False, *(draw.random() < 0.5 for _ in whole[2:]), True]
            rows.append(
                make_row(
                    whole,
                    mask,
                    logprobs=[-4.0] * len(whole),
                    task_id=f"t{group}",
                    sample=sample,
                    advantage=draw.gauss(0, 1),
                )
            )
    return [*rows, replace(rows[0], key=replace(rows[0].key, sample=num))]


def on_policy(learner: Learner, rows: Sequence[Row], *, shift: float = 0.0) -> list[Row]:
    """The rows as if the learner's policy had sampled them; `shift` moves the engine's logprobs."""
    return [
        replace(row, tokens=replace(row.tokens, logprobs=tuple(value + shift for value in found)))
        for row, found in zip(rows, learner.logprobs(rows), strict=True)
    ]


def gradients(learner: Learner) -> torch.Tensor:
    """All gradients in one vector, copied; afterwards there are none."""
    found = [p.grad.flatten().clone() for p in learner.parameters.values() if p.grad is not None]
    learner.optimizer.zero_grad()
    return torch.cat(found)


def make_trajectory(
    sample: int = 0,
    outcome: Outcome | float = 1.0,
    *,
    stop: StopReason = StopReason.DONE,
    graph: TokenGraph | None = None,
) -> Trajectory:
    return Trajectory(
        key=EpisodeKey(epoch=0, task_id="t", sample=sample),
        version=PolicyVersion(0),
        episode=Episode(task_id="t", seed=0, messages=(UserMessage("hi"),), stop=stop),
        graph=graph or make_graph(([1, 2], [3, 4])),
        outcome=Scored(reward=outcome) if isinstance(outcome, int | float) else outcome,
    )


def make_group(*outcomes: Outcome | float) -> Group:
    members = tuple(make_trajectory(sample, outcome) for sample, outcome in enumerate(outcomes))
    return Group(task_id="t", members=members)


def make_graph(*calls: tuple[Sequence[int], Sequence[int]]) -> TokenGraph:
    """One engine call for each (prompt, completion)."""
    graph = TokenGraph()
    for prompt, completion in calls:
        span = VersionSpan(version=PolicyVersion(0), start=0, end=len(completion))
        generation = Generation(
            ids=tuple(completion),
            logprobs=tuple(-float(token) for token in completion),
            versions=(span,),
            finish=Finish.STOP,
        )
        graph = graph.commit(prompt, generation)
    return graph


@dataclass(frozen=True)
class Found:
    """A loss and its gradient."""

    loss: float
    gradient: torch.Tensor

    def gap(self, other: "Found") -> float:
        """Largest difference, relative to the size."""
        size = max(abs(self.loss), float(self.gradient.abs().max()))
        return max(abs(self.loss - other.loss), float((self.gradient - other.gradient).abs().max())) / size


def found_by(learner: Learner, batch: Batch, loss: str = "ppo_clip", **options: Any) -> Found:
    return Found(learner.forward_backward(batch, loss, **options).loss, gradients(learner))


def values_of(tensor: torch.Tensor) -> list[Any]:
    untyped: Any = tensor
    found: list[Any] = untyped.tolist()
    return found
