"""One run on several ranks: the first does everything that a run does, and the others learn with it.

rank 0   collect ──> forward_backward ──> optim_step ──> publish ──> checkpoint
                           │ tell              │ tell         │ tell        │ tell
rank 1   ·········> forward_backward ──> optim_step ──> (its part of the weights) ···
"""

import signal
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ...agents.trajectory import EpisodeKey
from .._torch import use_processor
from ..batches.rows import Batch, Normaliser, Row
from ..config import LearnerConfig
from ..interrupt import Interrupted
from ..learner import Learner
from ..recipe_file import RecipeError
from ..reporting.reports import LossReport, StepReport, merge_reports
from ..schedule import OptimizerConfig
from ..weights.model import load_to_train
from .launch import world_size
from .processes import Ranks, deal
from .watch import watched


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    """The other ranks shall load this model."""

    model: Path
    config: LearnerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """The other ranks shall do as the first one does."""

    method: str
    arguments: Sequence[tuple[Any, ...]]
    """[world] of each rank."""
    options: Mapping[str, Any]
    answers: bool
    """Is the first one told what came out?"""


class LeadingLearner(Learner):
    """The first rank's: what it is asked, it asks of the other ranks too, each with a part of the rows."""

    def __init__(self, model: Path, config: LearnerConfig, ranks: Ranks) -> None:
        ranks.tell(_Open(model=model, config=config))
        self._all = ranks
        super().__init__(load_to_train(model, config, ranks.device), config, ranks)

    def restart(self, config: OptimizerConfig) -> None:
        if hasattr(self, "optimizer"):  # the first time, each rank's own `__init__` calls it
            self._tell("restart", config)
        super().restart(config)

    def forward_backward(self, batch: Batch, loss: str = "ppo_clip", **options: Any) -> LossReport:
        hands, whole = self._deal(batch.rows), batch.normaliser
        # Counted once: the sum over the ranks is the batch's own.
        rest = Normaliser.count((), whole.aggregation, whole.max_tokens)
        parts = [
            replace(batch, rows=tuple(batch.rows[at] for at in hand), normaliser=rest if rank else whole)
            for rank, hand in enumerate(hands)
        ]
        self._order("forward_backward", [(part, loss) for part in parts], options, answers=True)
        own = super().forward_backward(parts[0], loss, **options)
        return merge_reports(self._all.gather(own), hands)

    def optim_step(self) -> StepReport:
        self._tell("optim_step")
        return super().optim_step()

    def logprobs(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        hands = self._share("logprobs", rows)
        return _in_order(self._all.gather(super().logprobs([rows[at] for at in hands[0]])), hands)

    def keep_reference(self) -> None:
        self._tell("keep_reference")
        super().keep_reference()

    def reference_logprobs(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        hands = self._share("reference_logprobs", rows)
        return _in_order(self._all.gather(super().reference_logprobs([rows[at] for at in hands[0]])), hands)

    def state_for_engine(self) -> Mapping[str, Tensor]:
        self._tell("state_for_engine")
        return super().state_for_engine()

    def export_adapter(self, folder: Path) -> None:
        self._tell("export_adapter", folder)
        super().export_adapter(folder)

    def export_merged(self, folder: Path) -> None:
        self._tell("export_merged", folder)
        super().export_merged(folder)

    def tensors(self) -> Mapping[str, Tensor]:
        self._tell("tensors")
        return super().tensors()

    def optimizer_tensors(self) -> Mapping[str, Tensor]:
        self._tell("optimizer_tensors")
        return super().optimizer_tensors()

    def load_tensors(self, weights: Path, optimizer: Path | None, num_steps: int) -> None:
        self._tell("load_tensors", weights, optimizer, num_steps)
        super().load_tensors(weights, optimizer, num_steps)

    def _deal(self, rows: Sequence[Row]) -> list[list[int]]:
        """An episode's rows stay together: a loss may look at all of them."""
        episodes: dict[EpisodeKey, list[int]] = {}
        for at, row in enumerate(rows):
            episodes.setdefault(row.key, []).append(at)
        units = list(episodes.values())
        sizes = [sum(rows[at].trained_until for at in unit) for unit in units]
        return [sorted(at for unit in hand for at in units[unit]) for hand in deal(sizes, self._all.world)]

    def _share(self, method: str, rows: Sequence[Row]) -> list[list[int]]:
        hands = self._deal(rows)
        self._order(method, [([rows[at] for at in hand],) for hand in hands], {}, answers=True)
        return hands

    def _tell(self, method: str, *arguments: Any) -> None:
        """The others do the same, and keep what comes out."""
        self._order(method, [arguments] * self._all.world, {}, answers=False)

    def _order(
        self, method: str, arguments: Sequence[tuple[Any, ...]], options: Mapping[str, Any], *, answers: bool
    ) -> None:
        self._all.tell(_Call(method=method, arguments=arguments, options=options, answers=answers))


def _in_order(
    answers: Sequence[Sequence[tuple[float, ...]]], hands: Sequence[Sequence[int]]
) -> list[tuple[float, ...]]:
    """Each rank's rows, where they were before they were dealt."""
    pairs = (zip(hand, rows, strict=True) for hand, rows in zip(hands, answers, strict=True))
    found = dict(chain.from_iterable(pairs))
    return [found[at] for at in range(len(found))]


def open_learner(
    model: Path, config: LearnerConfig, ranks: Ranks | None = None, *, device: str = "cpu"
) -> Learner:
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
        found = getattr(learner, order.method)(*order.arguments[ranks.rank], **order.options)
        if order.answers:
            ranks.gather(found)
