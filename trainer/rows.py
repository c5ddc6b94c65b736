"""Training rows: the segments of an episode's token graph, with its advantage on the sampled tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ..agents.tokengraph import TokenRow
from ..agents.trajectory import EpisodeKey
from .advantages import Accepted


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One token sequence to train on. T is its length; per-token values are 0.0 where the mask is False."""

    key: EpisodeKey
    tokens: TokenRow
    advantages: tuple[float, ...]
    """[T]"""
    episode_tokens: int
    """Trained tokens of the whole episode, over all of its rows."""
    old_logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    """[T] the learner's own logprobs before the step, nats; None: the ratio is taken to the engine's."""
    ref_logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    """[T] logprobs of the reference policy, nats; needed for a KL term."""

    def __post_init__(self) -> None:
        if self.tokens.mask and self.tokens.mask[0]:
            raise ValueError(f"{self.key}: the first token of a row cannot be sampled, nothing precedes it")
        for values in (self.advantages, self.old_logprobs, self.ref_logprobs):
            if values is not None and len(values) != len(self.tokens.ids):
                raise ValueError(f"{self.key}: {len(values)} values for {len(self.tokens.ids)} tokens")

    @property
    def trained(self) -> list[int]:
        """Positions of the trained tokens."""
        return [position for position, is_trained in enumerate(self.tokens.mask) if is_trained]

    @property
    def trained_until(self) -> int:
        """Position of the last trained token: a model must read the tokens before it. 0 without one."""
        return max(self.trained, default=0)


class Aggregation(StrEnum):
    """How the losses of single tokens become one number."""

    TOKEN = "token"
    """Every trained token of the step weighs the same: long episodes weigh more (DAPO, arXiv 2503.14476)."""
    EPISODE = "episode"
    """Every episode weighs the same, however many tokens and segments it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Normaliser:
    """What one optimizer step divides by: counted once, before its first micro-batch.

    `a + b` counts for two ranks or two accumulation steps, as long as an episode's rows stay together.
    """

    aggregation: Aggregation
    num_tokens: int
    """Trained tokens of the step."""
    num_episodes: int
    """Episodes of the step with a trained token."""

    @classmethod
    def count(cls, rows: Iterable[Row], aggregation: Aggregation) -> "Normaliser":
        tokens = [(row.key, sum(row.tokens.mask)) for row in rows]
        return cls(
            aggregation=aggregation,
            num_tokens=sum(num for _, num in tokens),
            num_episodes=len({key for key, num in tokens if num}),
        )

    def __add__(self, other: "Normaliser") -> "Normaliser":
        if self.aggregation != other.aggregation:
            raise ValueError(f"cannot add a {self.aggregation} and a {other.aggregation} normaliser")
        return Normaliser(
            aggregation=self.aggregation,
            num_tokens=self.num_tokens + other.num_tokens,
            num_episodes=self.num_episodes + other.num_episodes,
        )

    def weight(self, row: Row) -> float:
        """What each trained token of a row counts. Over all tokens of the step the weights sum to 1."""
        if self.aggregation is Aggregation.TOKEN:
            return 1 / self.num_tokens
        return 1 / (self.num_episodes * row.episode_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows, and the normaliser of the optimizer step that they belong to."""

    rows: tuple[Row, ...]
    normaliser: Normaliser


def training_rows(accepted: Iterable[Accepted]) -> list[Row]:
    """The rows of some episodes: every sampled token stands in exactly one of them."""
    rows: list[Row] = []
    for member in accepted:
        tokens = list(member.trajectory.graph.rows())
        total = sum(sum(row.mask) for row in tokens)
        rows += [_row(member, row, total) for row in tokens]
    return rows


def _row(member: Accepted, tokens: TokenRow, episode_tokens: int) -> Row:
    advantages = tuple(member.advantage if is_trained else 0.0 for is_trained in tokens.mask)
    key = member.trajectory.key
    return Row(key=key, tokens=tokens, advantages=advantages, episode_tokens=episode_tokens)


def make_batch(rows: Sequence[Row], aggregation: Aggregation | str = Aggregation.TOKEN) -> Batch:
    """Rows that make a whole optimizer step by themselves."""
    return Batch(rows=tuple(rows), normaliser=Normaliser.count(rows, Aggregation(aggregation)))


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """The same step in parts, for gradient accumulation: all keep the normaliser of the whole."""
    parts = (batch.rows[part::num_parts] for part in range(num_parts))
    return [Batch(rows=rows, normaliser=batch.normaliser) for rows in parts if rows]
