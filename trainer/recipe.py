"""The recipe: one YAML file that says everything about a run. Imports without torch.

Its sections are in `sections/`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from ..agents.engine import Sampling
from .sections.base import AnyPath, Section
from .sections.grading import GradingSection
from .sections.grpo import CorrectionSection, GrpoSection, OverlongSection
from .sections.learning import LoraSection, OptimizerSection, WarmStartSection
from .sections.models import EngineSection, ModelSection, SamplingSection, TinyModel
from .sections.tasks import DataSection, EnvSection, RewardSection, spelled_out
from .sections.watching import (
    CheckpointSection,
    EarlyStoppingSection,
    EvaluationSection,
    TrackerSection,
)

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of a run, or of an evaluation: it is part of a folder's name."""


class Recipe(Section):
    """Everything about a run. What is played is `env`, or `data` with `reward`.

    >>> Recipe.model_validate({"name": "x", "env": {"id": "arithmetic"}, "grpo": {"steps": 1}}).seed
    0
    """

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the run's folder."""
    runs_dir: AnyPath = Path("runs")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    deterministic: bool = False
    """Bit-identical results from the same recipe, also after a crash; somewhat slower."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Processor threads of torch; None: all cores. Where the system cannot make so many, OpenMP crashes."""
    peak_tflops: PositiveFloat | None = None
    """What one device of the learner computes, in 10^12 operations a second, for the metric `mfu`; None:
    what is known of the GPU, and no `mfu` where nothing is."""
    env: EnvSection | None = None
    data: DataSection | None = None
    reward: RewardSection | None = None
    tools: str | None = None
    """A Python file, or a module, whose functions do the work of the rows' tools."""
    model: ModelSection = ModelSection(tiny=TinyModel())
    engine: EngineSection = EngineSection()
    sampling: SamplingSection = SamplingSection()
    warm_start: WarmStartSection | None = None
    lora: LoraSection | None = None
    """None trains every parameter."""
    optimizer: OptimizerSection = OptimizerSection()
    grpo: GrpoSection = GrpoSection()
    grading: GradingSection | None = None
    """None: an episode is graded before its place is free again."""
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    trackers: list[TrackerSection] = Field(default_factory=list[TrackerSection])
    """Where each step's numbers go besides `metrics.jsonl`."""

    _spell_out = model_validator(mode="before")(spelled_out)

    @model_validator(mode="after")
    def _plays_one_thing(self) -> Self:
        if (self.env is None) == (self.data is None):
            raise ValueError("set exactly one of `env` and `data`; `data` comes with `reward`")
        if (self.data is None) != (self.reward is None):
            raise ValueError("`data` and `reward` come together: rows, and the function that judges answers")
        if self.data is None and self.tools is not None:
            raise ValueError("`tools` are for the rows of `data`; an environment brings its own")
        return self

    @property
    def source(self) -> EnvSection | DataSection:
        """Where the tasks come from."""
        found = self.env or self.data
        assert found is not None, "validated"
        return found

    @property
    def source_field(self) -> str:
        """How the recipe calls it."""
        return "data" if self.env is None else "env"

    @property
    def training_sampling(self) -> Sampling:
        """How training samples."""
        return Sampling(temperature=self.sampling.temperature, max_tokens=self.sampling.max_tokens)

    @property
    def evaluation_sampling(self) -> Sampling:
        """How every evaluation samples."""
        chosen, usual = self.evaluation, self.sampling
        return Sampling(
            temperature=usual.temperature if chosen.temperature is None else chosen.temperature,
            top_p=chosen.top_p,
            max_tokens=chosen.max_tokens or usual.max_tokens,
        )

    @property
    def late_groups(self) -> Literal["keep", "drop"]:
        """What training does with a group that was closed without some of its grades."""
        return "keep" if self.grading is None or self.grading.close != "drop" else "drop"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.runs_dir / self.name


__all__ = [
    "NAME",
    "CheckpointSection",
    "CorrectionSection",
    "DataSection",
    "EarlyStoppingSection",
    "EngineSection",
    "EnvSection",
    "EvaluationSection",
    "GradingSection",
    "GrpoSection",
    "LoraSection",
    "ModelSection",
    "OptimizerSection",
    "OverlongSection",
    "Recipe",
    "RewardSection",
    "SamplingSection",
    "TinyModel",
    "TrackerSection",
    "WarmStartSection",
]
