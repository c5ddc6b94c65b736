"""One step of reinforcement learning: groups, advantages, losses. Part of the recipe's schema."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from .base import Section


class CorrectionSection(Section):
    """Weights of tokens that the engine sampled and the learner would not have sampled just so."""

    level: Literal["token", "turn", "episode", "geometric"] = "token"
    kind: Literal["truncate", "mask"] = "truncate"
    low: Annotated[float, Field(ge=0, le=1)] = 0.0
    high: Annotated[float, Field(ge=1)] = 2.0


class OverlongSection(Section):
    """The soft overlong punishment of DAPO (arXiv 2503.14476)."""

    max_tokens: PositiveInt
    """Sampled tokens of a whole episode from which on the penalty is whole."""
    cache_tokens: PositiveInt
    """So many before that it begins."""
    weight: PositiveFloat = 1.0
    """The whole penalty, in units of the reward."""


class GrpoSection(Section):
    """Trajectory-level group-relative policy optimisation."""

    steps: Annotated[int, Field(ge=0)] = 100
    """0 ends with the warm start: supervised fine-tuning only."""
    epochs: PositiveFloat | None = None
    """End after so many passes over the training tasks, if that is before `steps`; None: take them all."""
    tasks_per_step: PositiveInt = 16
    shuffle_tasks: bool = True
    """Each pass has an order of its own, drawn from `seed`; false: that of the tasks, as a curriculum has
    one."""
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
    """None: tokens of the engine are trusted as they are. Nothing is corrected with old_policy: engine."""
    kl_coefficient: NonNegativeFloat = 0.0
    """Weight of the KL penalty against the policy that training started from (see `reference`)."""
    kl_kind: Literal["k1", "k2", "k3"] = "k3"
    """k1 goes into the reward, k2 and k3 into the loss."""
    entropy_coefficient: NonNegativeFloat = 0.0
    """The loss falls by this times the entropy, nats, averaged over tokens as the loss is."""
    sft_coefficient: NonNegativeFloat = 0.0
    """Weight of the likelihood of the oracle's demonstrations, added to each update."""
    sft_batch: PositiveInt = 8
    """Demonstrations of an update."""
    sft_demonstrations: PositiveInt = 256
    """Training tasks that the oracle plays for it."""
    reference: bool | None = None
    """Compute that policy's log-probabilities: for the penalty, or by `true` only to report how far it went;
    that costs a copy of what is trained and a forward pass. None: where there is a penalty."""
    min_group: Annotated[int, Field(ge=2)] = 2
    """Groups with fewer graded members are dropped, with a reason on record."""
    refill: Annotated[int, Field(ge=0, le=16)] = 0
    """Rollouts anew, each with its own seed, in the place of a member that has no number; then `lost`."""
    lost: Literal["member", "group"] = "member"
    """What goes with a member that has no number: itself, or its group."""
    overlong: OverlongSection | None = None
    """Episodes pay for their last tokens before a limit."""
    truncated: Literal["keep", "mask", "drop"] = "keep"
    """What happens with episodes that ran out of budget, or whose last answer was cut: "mask" leaves them out
    of the loss, "drop" out of the baseline too."""
    zero_variance: Literal["keep", "drop"] = "drop"
    """Groups without any advantage. Kept, they count in what the loss is divided by."""
    shuffle_rewards: bool = False
    """Control experiment: rewards are permuted over the whole batch, each for an episode's last turn."""
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

    @property
    def has_reference(self) -> bool:
        """Whether log-probabilities of the reference policy are computed."""
        return bool(self.kl_coefficient) if self.reference is None else self.reference
