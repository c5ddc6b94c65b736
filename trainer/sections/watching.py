"""Evaluations on the way, checkpoints, and where numbers go. Part of the recipe's schema."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from ...agents.evaluation import Passing
from .base import Section


class EarlyStoppingSection(Section):
    """Stop when the mean reward of the evaluations on the way does not grow any more."""

    patience: PositiveInt = 3
    """Evaluations in a row that may pass without a better one."""
    min_delta: NonNegativeFloat = 0.0
    """Better is by more than this, in units of the reward."""


class EvaluationSection(Section):
    samples: PositiveInt = 1
    """Episodes of each held-out task."""
    every: PositiveInt | None = None
    """Evaluate each so many steps; None: before, after the warm start, and at the end."""
    temperature: NonNegativeFloat | None = None
    """None: as in training."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: PositiveInt | None = None
    """Tokens of one answer; None: as in training."""
    at_start: bool = True
    """Evaluate what training starts from, before and after a warm start."""
    success_threshold: float | None = None
    """The reward from which an episode of an evaluation passes; None: the environment's maximum."""
    pass_at: tuple[PositiveInt, ...] | None = None
    """The k of pass@k and pass^k; 1 is always told, and none over `samples`; None: 2, 4 ... 64."""
    early_stopping: EarlyStoppingSection | None = None
    """None takes all of `grpo.steps`; needs `every`."""

    @property
    def passing(self) -> Passing:
        """What counts as a success, and of how many."""
        usual = Passing()
        return Passing(threshold=self.success_threshold, ks=self.pass_at or usual.ks)


class CheckpointSection(Section):
    every: PositiveInt = 20
    keep: PositiveInt = 2
    keep_best: Annotated[int, Field(ge=0)] = 0
    """So many more, the best by the mean reward of an evaluation on the way; needs `evaluation.every`."""


class TrackerSection(Section):
    """`trackers: [csv, tensorboard]` is short for a list of these."""

    kind: str
    """A name in `palaestra.trainer.trackers`: csv, mlflow, tensorboard, wandb; or "module:Class"."""
    aliases: tuple[Literal["bedrock", "hyperpod", "sagemaker"], ...] = ()
    """Names of AWS under which it is told the numbers too."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of that tracker, such as {project: mine, mode: offline} for wandb."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given
