"""The recipe: one YAML file that says everything about a run. Imports without torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from .sources import DataSection, EnvSection, RewardSection, Section, spelled_out

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of a run, or of an evaluation: it is part of a folder's name."""


def _writable(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot hold the character NUL; leave it out")
    return path


AnyPath = Annotated[Path, AfterValidator(_writable)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class TinyModel(Section):
    """A model made on the spot from random weights, with a tokenizer trained on demonstrations."""

    hidden: PositiveInt = 128
    layers: PositiveInt = 2
    heads: PositiveInt = 8
    kv_heads: PositiveInt = 4
    head_dim: PositiveInt = 32
    intermediate: PositiveInt = 256
    vocab: Annotated[int, Field(ge=128)] = 192
    """Upper bound; the tokenizer may need fewer."""
    rope_theta: PositiveFloat = 100.0
    """Small, so that few layers learn soon to look at the token before."""
    init_std: PositiveFloat = 0.06
    max_context: PositiveInt = 256
    """Positions that the model is made for."""


class ModelSection(Section):
    """Exactly one of `path`, `start` and `tiny`."""

    path: AnyPath | None = None
    """A folder in Hugging Face format."""
    start: AnyPath | None = None
    """A run, one of its checkpoints, an adapter or a model, to go on from with a fresh optimizer; the run
    makes a whole model of its own of it, so that it may train another rank, or every parameter."""
    tiny: TinyModel | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is trained, and sampled by the local engine: "auto" is a GPU where there is one."""
    tool_format: str = "hermes"
    """How tool calls are written: "hermes" or "react"."""
    describe_tools: bool = True
    """Tell the model its tools. A model that was warmed up on one set of tools may know them."""
    history: Literal["append", "template"] = "append"
    """"append" never re-renders; "template" does, as the chat template wants, and forks where it must."""


class EngineSection(Section):
    """What samples the tokens."""

    kind: Literal["local", "vllm"] = "local"
    slots: PositiveInt = 128
    """Requests decoded together (local)."""
    max_context: Annotated[int, Field(ge=2)] | None = None
    """Tokens of prompt and answer together; None: what the model was made for."""
    url: str | None = None
    """A running vLLM server; None starts one (vllm)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of a started server; 0 picks a free one."""
    api_key_env: str | None = None
    """Name of the environment variable with the server's key; the key itself never stands in a recipe."""
    args: list[str] = Field(default_factory=list)
    """More arguments for a started vLLM server."""
    max_in_flight: PositiveInt = 128
    """Episodes played at the same time."""
    stuck_after_s: PositiveFloat = 300.0
    """Seconds without a finished episode after which the run says what its episodes wait for."""
    canary_bound: PositiveFloat = 1e-3
    """Largest difference of engine and learner log-probabilities after a publish, nats (vllm)."""


class SamplingSection(Section):
    temperature: PositiveFloat = 1.0
    max_tokens: PositiveInt = 256
    """Tokens of one answer."""


class OptimizerSection(Section):
    """AdamW."""

    lr: PositiveFloat | None = None
    """None: by the model's width, 1e-6 from 2560 on, 8e-6 at 900, 4e-4 at 128; ten times that with LoRA."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Where a falling schedule ends, as a part of `lr`."""
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    max_grad_norm: PositiveFloat = 1.0


class WarmStartSection(Section):
    """A short supervised training on the oracle's demonstrations, before the reinforcement learning."""

    demonstrations: PositiveInt = 1024
    """Training tasks that the oracle plays; at most as many as there are."""
    steps: PositiveInt = 100
    target_loss: PositiveFloat | None = None
    """Stop early when the loss, smoothed over about five steps, is down to this; nats a token."""
    batch_size: PositiveInt = 32
    """Demonstrations per step."""
    optimizer: OptimizerSection = OptimizerSection(lr=1e-3)
    lora: "LoraSection | None" = None
    """Train an adapter, which is merged in afterwards; None trains every parameter."""


class LoraSection(Section):
    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    targets: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of linear layers such as "q_proj"; "all-linear": every one but the head."""
    lr_ratio: PositiveFloat = 1.0
    """The rate of an adapter's B over that of its A; 16 is LoRA+ (arXiv 2402.12354)."""
    base_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen weights; bfloat16 halves their memory. Then set `model.dtype` to bfloat16 as well."""


class CorrectionSection(Section):
    """Weights of tokens that the engine sampled and the learner would not have sampled just so."""

    level: Literal["token", "turn", "episode", "geometric"] = "token"
    kind: Literal["truncate", "mask"] = "truncate"
    low: Annotated[float, Field(ge=0, le=1)] = 0.0
    high: Annotated[float, Field(ge=1)] = 2.0


class GrpoSection(Section):
    """Trajectory-level group-relative policy optimisation."""

    steps: Annotated[int, Field(ge=0)] = 100
    """0 ends with the warm start: supervised fine-tuning only."""
    tasks_per_step: PositiveInt = 16
    group_size: Annotated[int, Field(ge=2)] = 8
    """Episodes of one task; the baseline is their mean."""
    updates_per_step: PositiveInt = 1
    """Optimizer steps of one batch of groups, each on its own part of the episodes."""
    advantage: str = "grpo"
    """A name in `palaestra.trainer.advantages`, or "module:Class"."""
    advantage_options: dict[str, Any] = Field(default_factory=dict)
    loss: str = "ppo_clip"
    """A name in `palaestra.trainer.losses`, or "module:Class"."""
    loss_options: dict[str, Any] = Field(default_factory=dict)
    aggregation: Literal["token", "episode", "turn", "prompt", "constant"] | None = None
    """What the loss averages over; None: what the loss's paper does, "token" for most."""
    aggregation_tokens: PositiveInt | None = None
    """Tokens that an episode may have: what "constant" divides by."""
    old_policy: Literal["learner", "engine"] = "learner"
    """What ratios are taken to: the learner before the step, the engine's tokens being corrected for by
    `correction`; or the engine itself, which saves a forward pass of every update but the first."""
    correction: CorrectionSection | None = CorrectionSection()
    """None: tokens of the engine are trusted as they are."""
    kl_coefficient: NonNegativeFloat = 0.0
    """Weight of the KL penalty against the policy that training started from; needs `reference`."""
    kl_kind: Literal["k1", "k2", "k3"] = "k3"
    """k1 goes into the reward, k2 and k3 into the loss."""
    entropy_coefficient: NonNegativeFloat = 0.0
    """The loss falls by this times the mean entropy, nats."""
    sft_coefficient: NonNegativeFloat = 0.0
    """Weight of the likelihood of the oracle's demonstrations, added to each update."""
    sft_batch: PositiveInt = 8
    """Demonstrations of an update."""
    sft_demonstrations: PositiveInt = 256
    """Training tasks that the oracle plays for it."""
    reference: bool = True
    """Compute that policy's log-probabilities: for the penalty, or only to report how far it went."""
    min_group: Annotated[int, Field(ge=2)] = 2
    """Groups with fewer graded members are dropped, with a reason on record."""
    lost: Literal["member", "group"] = "member"
    """What goes with a member that has no number: itself, or its group."""
    truncated: Literal["keep", "drop"] = "keep"
    """What happens with episodes that ran out of budget."""
    zero_variance: Literal["keep", "drop"] = "drop"
    """Groups without any advantage. Kept, they count in what the loss is divided by."""
    shuffle_rewards: bool = False
    """Control experiment: rewards are permuted over the whole batch, so that nothing can be learned."""
    max_attempts: PositiveInt = 3
    """Tries of a sample whose failure is retryable, in one start of the run."""
    retry_s: NonNegativeFloat = 2.0
    """Seconds before the second try, with jitter; the pause doubles from try to try."""
    micro_batch_tokens: PositiveInt = 2048
    """Tokens of one forward and backward pass."""
    logit_chunk: PositiveInt | None = None
    """Positions that go through the head at once; None: as many as take 256 MiB of logits."""
    share_prefixes_from: PositiveInt | None = None
    """Compute what rows begin with in common once, from so many tokens on; None: each row by itself."""
    activation_checkpointing: bool = False
    """Keep little of each layer for the backward pass: less memory, more time."""


class GradingSection(Section):
    """Detached grading: the environment's grader, or another one, off the rollout slots."""

    kind: Literal["inline", "subprocess", "sandbox", "http", "lambda"] = "inline"
    """Where grades are made: in this process, in a process each, in a sandbox each, behind HTTP, by events on
    AWS Lambda. The first two use the environment's grader, unless there is a `command`."""
    command: list[str] = Field(default_factory=list)
    """The grader as a program (subprocess, sandbox)."""
    files: list[AnyPath] = Field(default_factory=list[Path])
    """Files that lie beside the program (sandbox)."""
    sandbox: dict[str, Any] = Field(default_factory=dict)
    """Fields of its `SandboxSpec`, such as {backend: docker, image: "judge:1"}."""
    url: str | None = None
    """Where jobs are posted (http)."""
    function: str | None = None
    """The ARN or the name of a function that takes events (lambda)."""
    answers: str | None = None
    """Where the function puts answers: s3://bucket/prefix, or a URL (lambda)."""
    endpoint_url: str | None = None
    """Another server that speaks Lambda's API (lambda)."""
    token_env: str | None = None
    """Environment variable with the bearer token for `url` or `answers`."""
    callback: bool = False
    """Listen on the loopback for answers (http, lambda)."""
    callback_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: a free one, the same after a restart."""
    callback_url: str | None = None
    """How the grader reaches us from elsewhere, such as through a proxy."""
    max_outstanding: PositiveInt = 256
    """Jobs at the grader at one time."""
    attempt_s: PositiveFloat = 600.0
    """Seconds of one try."""
    total_s: PositiveFloat = 3600.0
    """Seconds of all tries of an episode, with the pauses between them."""
    max_attempts: PositiveInt = 3
    heartbeat_s: PositiveFloat | None = None
    """A try that gives no sign of life for so long has died."""
    retry_s: NonNegativeFloat = 2.0
    """Seconds before the second try, with jitter; the pause doubles from try to try."""
    poll_s: PositiveFloat = 1.0
    """Seconds before the first look at a job; they grow with its age."""
    close: Literal["wait", "partial", "drop"] = "wait"
    """What a group does `close_after_s` after its last episode was played: wait for every grade, go on with
    those that are there, or be left out of training as a whole when one is missing."""
    close_after_s: PositiveFloat = 600.0


class EvaluationSection(Section):
    samples: PositiveInt = 1
    """Episodes of each held-out task."""
    every: PositiveInt | None = None
    """Evaluate each so many steps; None: before, after the warm start, and at the end."""
    temperature: NonNegativeFloat | None = None
    """None: as in training."""


class CheckpointSection(Section):
    every: PositiveInt = 20
    keep: PositiveInt = 2
    keep_best: Annotated[int, Field(ge=0)] = 0
    """So many more, the best by the mean reward of an evaluation on the way; needs `evaluation.every`."""


class TrackerSection(Section):
    """`trackers: [csv, tensorboard]` is short for a list of these."""

    kind: str
    """A name in `palaestra.trainer.trackers`: csv, mlflow, tensorboard, wandb; or "module:Class"."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of that tracker, such as {project: mine, mode: offline} for wandb."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given


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
    threads: PositiveInt | None = None
    """Processor threads of torch; None: all cores."""
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
    def evaluation_temperature(self) -> float:
        """Of every evaluation's sampling."""
        chosen = self.evaluation.temperature
        return self.sampling.temperature if chosen is None else chosen

    @property
    def late_groups(self) -> Literal["keep", "drop"]:
        """What training does with a group that was closed without some of its grades."""
        return "keep" if self.grading is None or self.grading.close != "drop" else "drop"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.runs_dir / self.name
