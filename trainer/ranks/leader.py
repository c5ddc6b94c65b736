"""One run on several ranks: the first does everything that a run does, and the others learn with it.

rank 0   collect ──> forward_backward ──> optim_step ──> publish ──> checkpoint
                           │ tell              │ tell         │ tell        │ tell
rank 1   ·········> forward_backward ──> optim_step ──> (its part of the weights) ···
"""

import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from torch import Tensor
from transformers import PreTrainedModel

from ...agents.trajectory import EpisodeKey
from .._torch import use_processor
from ..batches.rows import Batch, Normaliser, Row
from ..config import LearnerConfig
from ..interrupt import Interrupted
from ..learner import Learner
from ..recipe_file import RecipeError
from ..reference import Reference
from ..reporting.reports import LossReport, StepReport, merge_reports
from ..schedule import OptimizerConfig
from ..weights.model import load_to_train
from .launch import world_size
from .processes import Ranks, deal
from .watch import watched

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    """The other ranks shall load this model."""

    model: Path
    config: LearnerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """The other ranks shall do as the first one does."""

    method: Callable[..., Any]
    """Of `Learner`; it travels by its name."""
    arguments: Sequence[tuple[Any, ...]]
    """[world] of each rank."""
    options: Mapping[str, Any]
    answers: bool
    """Is the first one told what came out?"""


class LeadingLearner:
    """The first rank's: what it is asked, it asks of its own learner and of the other ranks'. For whoever
    calls it, it is a `Learner`."""

    def __init__(self, model: Path, config: LearnerConfig, ranks: Ranks) -> None:
        ranks.tell(_Open(model=model, config=config))
        self._ranks = ranks
        self._own = Learner(load_to_train(model, config, ranks.device), config, ranks)

    # --- what the first rank knows by itself ---

    @property
    def config(self) -> LearnerConfig:
        return self._own.config

    @property
    def model(self) -> PreTrainedModel:
        return self._own.model

    @property
    def reference(self) -> Reference | None:
        return self._own.reference

    @property
    def num_steps(self) -> int:
        return self._own.num_steps

    @property
    def base_sha256(self) -> Mapping[str, str]:
        return self._own.base_sha256

    @property
    def is_first(self) -> bool:
        return self._own.is_first

    # --- each with a part of the rows ---

    def forward_backward(self, batch: Batch, loss: str = "ppo_clip", **options: Any) -> LossReport:
        hands, whole = self._deal(batch.rows), batch.normaliser
        # Counted once: the sum over the ranks is the batch's own.
        rest = Normaliser.count((), whole.aggregation, whole.max_tokens)
        parts = [
            replace(batch, rows=tuple(batch.rows[at] for at in hand), normaliser=rest if rank else whole)
            for rank, hand in enumerate(hands)
        ]
        reports = self._each(Learner.forward_backward, [(part, loss) for part in parts], options)
        return merge_reports(reports, hands)

    def logprobs(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        return self._by_rows(Learner.logprobs, rows)

    def reference_logprobs(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        return self._by_rows(Learner.reference_logprobs, rows)

    # --- all the same ---

    def restart(self, config: OptimizerConfig) -> None:
        self._both(Learner.restart, config)

    def optim_step(self) -> StepReport:
        return self._both(Learner.optim_step)

    def keep_reference(self) -> None:
        self._both(Learner.keep_reference)

    def state_for_engine(self) -> Mapping[str, Tensor]:
        return self._both(Learner.state_for_engine)

    def export_adapter(self, folder: Path) -> None:
        self._both(Learner.export_adapter, folder)

    def export_merged(self, folder: Path) -> None:
        self._both(Learner.export_merged, folder)

    def save(self, folder: Path) -> None:
        self._both(Learner.save, folder)

    def load(self, folder: Path) -> None:
        self._both(Learner.load, folder)

    def tensors(self) -> Mapping[str, Tensor]:
        return self._both(Learner.tensors)

    def optimizer_tensors(self) -> Mapping[str, Tensor]:
        return self._both(Learner.optimizer_tensors)

    def load_tensors(self, weights: Path, optimizer: Path | None, num_steps: int) -> None:
        self._both(Learner.load_tensors, weights, optimizer, num_steps)

    def _both(
        self, method: Callable[Concatenate[Learner, P], R], *arguments: P.args, **options: P.kwargs
    ) -> R:
        """What comes out here. The others do the same, and keep it."""
        everyone = [arguments] * self._ranks.world
        self._ranks.tell(_Call(method=method, arguments=everyone, options=options, answers=False))
        return method(self._own, *arguments, **options)

    def _each(
        self, method: Callable[..., R], arguments: Sequence[tuple[Any, ...]], options: Mapping[str, Any]
    ) -> list[R]:
        """[world] what comes out, of each rank with arguments of its own."""
        self._ranks.tell(_Call(method=method, arguments=arguments, options=options, answers=True))
        return self._ranks.gather(method(self._own, *arguments[0], **options))

    def _by_rows(
        self, method: Callable[[Learner, Sequence[Row]], list[tuple[float, ...]]], rows: Sequence[Row]
    ) -> list[tuple[float, ...]]:
        """Of each row, wherever it was done."""
        hands = self._deal(rows)
        answers = self._each(method, [([rows[at] for at in hand],) for hand in hands], {})
        pairs = (zip(hand, found, strict=True) for hand, found in zip(hands, answers, strict=True))
        by_place = dict(chain.from_iterable(pairs))
        return [by_place[at] for at in range(len(rows))]

    def _deal(self, rows: Sequence[Row]) -> list[list[int]]:
        """An episode's rows stay together: a loss may look at all of them."""
        episodes: dict[EpisodeKey, list[int]] = {}
        for at, row in enumerate(rows):
            episodes.setdefault(row.key, []).append(at)
        units = list(episodes.values())
        sizes = [sum(rows[at].trained_until for at in unit) for unit in units]
        return [sorted(at for unit in hand for at in units[unit]) for hand in deal(sizes, self._ranks.world)]


AnyLearner = Learner | LeadingLearner
"""Alone, or the first of several ranks."""


def open_learner(
    model: Path, config: LearnerConfig, ranks: Ranks | None = None, *, device: str = "cpu"
) -> AnyLearner:
    """A learner of a model folder, shared with the ranks that wait for this one, which have their devices.

    Raises `RecipeError` for a model that cannot be trained so.
    """
    try:
        if ranks is not None:
            return LeadingLearner(model, config, ranks)
        return Learner(load_to_train(model, config, device), config)
    except (ValueError, OSError) as error:  # of transformers too, as in `open_local_engine`
        raise RecipeError(f"the model {model} cannot be trained: {error}") from error


@contextmanager
def leading(device: str = "auto") -> Generator[Ranks | None, None, None]:
    """The ranks that wait for this one; None: it is alone. At the end they may go, and after a failure they
    end too (`watch.py`)."""
    if world_size() == 1:
        yield None
        return
    ranks, stopped = Ranks.open(device), None
    with watched(ranks):
        try:
            yield ranks
        except Interrupted as error:  # between two calls: the others wait for the next
            stopped = error
        ranks.tell(None)
    ranks.close()
    if stopped is not None:
        raise stopped


def follow(threads: int | None, *, deterministic: bool, device: str = "auto") -> None:
    """What every rank but the first does: as it is told, until it may go.

    Signals are for the first rank, which finishes its step with the others and lets them go.
    """
    use_processor(threads, deterministic=deterministic)
    ranks = Ranks.open(device)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with watched(ranks):
        _obey(ranks)
    ranks.close()


def _obey(ranks: Ranks) -> None:
    learner: Learner | None = None
    while (order := cast(object, ranks.tell())) is not None:
        if isinstance(order, _Open):
            learner = None  # its memory first
            learner = Learner(load_to_train(order.model, order.config, ranks.device), order.config, ranks)
            continue
        assert isinstance(order, _Call)
        found = order.method(learner, *order.arguments[ranks.rank], **order.options)
        if order.answers:
            ranks.gather(found)
