"""Training rows: the segments of an episode's token graph, with its advantage on the sampled tokens."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ...agents.tokengraph import TokenGraph, TokenRow
from ...agents.trajectory import EpisodeKey
from ..advantages import Accepted


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
    turns: tuple[int, ...] = field(default=(), repr=False)
    """[T] which turn of the episode a token was sampled in, from 0; -1 where the mask is False. Empty:
    counted in this row, each unbroken run of sampled tokens being one."""

    def __post_init__(self) -> None:
        if not self.turns:
            object.__setattr__(self, "turns", _runs(self.tokens.mask))
        if self.tokens.mask and self.tokens.mask[0]:
            raise ValueError(f"{self.key}: the first token of a row cannot be sampled, nothing precedes it")
        for values in (self.advantages, self.old_logprobs, self.ref_logprobs, self.turns):
            if values is not None and len(values) != len(self.tokens.ids):
                raise ValueError(f"{self.key}: {len(values)} values for {len(self.tokens.ids)} tokens")
        if [turn >= 0 for turn in self.turns] != [bool(is_trained) for is_trained in self.tokens.mask]:
            raise ValueError(f"{self.key}: turns {self.turns} are not those of the mask {self.tokens.mask}")

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
    TURN = "turn"
    """Every turn of the step weighs the same, however many tokens it has."""
    PROMPT = "prompt"
    """Every task weighs the same; in it, every trained token of its group does (Magistral, arXiv
    2506.10910)."""
    CONSTANT = "constant"
    """Divided by episodes times a constant number of tokens: no length counts (Dr. GRPO, arXiv
    2503.20783)."""


Prompt = tuple[str, int, str]
"""(split, epoch, task): the siblings of a group share it."""


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
    num_turns: int = 0
    prompts: tuple[tuple[Prompt, int], ...] = ()
    """Trained tokens by task, sorted; each task has some."""
    max_tokens: int | None = None
    """The constant of CONSTANT: tokens that an episode may have."""

    def __post_init__(self) -> None:
        if (self.aggregation is Aggregation.CONSTANT) != (self.max_tokens is not None):
            raise ValueError(
                f"aggregation is {self.aggregation}, max_tokens {self.max_tokens}; constant needs the "
                "tokens that "
                "an episode may have, the others know what they divide by"
            )

    @classmethod
    def count(
        cls, rows: Iterable[Row], aggregation: Aggregation, max_tokens: int | None = None
    ) -> "Normaliser":
        """Raises `ValueError` where the rows of an episode are not all here, or are of two."""
        trained = [(row, sum(row.tokens.mask)) for row in rows if any(row.tokens.mask)]
        prompts, episodes = Counter[Prompt](), Counter[EpisodeKey]()
        for row, num in trained:
            prompts[_prompt(row)] += num
            episodes[row.key] += num
        for row, _ in trained:
            if row.episode_tokens != episodes[row.key]:
                raise ValueError(
                    f"{row.key}: a row says episode_tokens={row.episode_tokens}, and the rows of that key "
                    f"have {episodes[row.key]} trained tokens; an episode's rows belong into one batch, and "
                    "each episode has a key of its own"
                )
        return cls(
            aggregation=aggregation,
            num_tokens=sum(num for _, num in trained),
            num_episodes=len(episodes),
            num_turns=sum(len({row.turns[at] for at in row.trained}) for row, _ in trained),
            prompts=tuple(sorted(prompts.items())),
            max_tokens=max_tokens,
        )

    def __add__(self, other: "Normaliser") -> "Normaliser":
        if (self.aggregation, self.max_tokens) != (other.aggregation, other.max_tokens):
            raise ValueError(f"cannot add a {self.aggregation} and a {other.aggregation} normaliser")
        prompts = Counter(dict(self.prompts)) + Counter(dict(other.prompts))
        return Normaliser(
            aggregation=self.aggregation,
            num_tokens=self.num_tokens + other.num_tokens,
            num_episodes=self.num_episodes + other.num_episodes,
            num_turns=self.num_turns + other.num_turns,
            prompts=tuple(sorted(prompts.items())),
            max_tokens=self.max_tokens,
        )

    def weights(self, row: Row) -> tuple[float, ...]:
        """[T] what each trained token of a row counts, 0.0 elsewhere. Over all tokens of the step the weights
        sum to 1, but for CONSTANT, where the sum is what the episodes had of what they may have."""
        if self.aggregation is Aggregation.TURN:
            sizes = Counter(row.turns[at] for at in row.trained)
            share = {turn: 1 / (self.num_turns * size) for turn, size in sizes.items()}
        else:
            share = dict.fromkeys(row.turns, self._share(row))
        return tuple(
            share[turn] if is_trained else 0.0
            for turn, is_trained in zip(row.turns, row.tokens.mask, strict=True)
        )

    def _share(self, row: Row) -> float:
        match self.aggregation:
            case Aggregation.EPISODE:
                return 1 / (self.num_episodes * row.episode_tokens)
            case Aggregation.PROMPT:
                tokens = next((num for prompt, num in self.prompts if prompt == _prompt(row)), 0)
                return 1 / (len(self.prompts) * tokens) if tokens else 0.0
            case Aggregation.CONSTANT:
                assert self.max_tokens is not None, "checked at the start"
                return 1 / (self.num_episodes * self.max_tokens) if self.num_episodes else 0.0
            case _:
                return 1 / self.num_tokens if self.num_tokens else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows, and the normaliser of the optimizer step that they belong to."""

    rows: tuple[Row, ...]
    normaliser: Normaliser
    is_fresh: bool = False
    """The learner has not moved since the step began: its own logprobs are the old ones, whatever rows
    say."""


def training_rows(accepted: Iterable[Accepted]) -> list[Row]:
    """The rows of some episodes: every sampled token stands in exactly one of them."""
    rows: list[Row] = []
    for member in accepted:
        graph = member.trajectory.graph
        tokens = list(graph.rows())
        total = sum(sum(row.mask) for row in tokens)
        rows += [
            _row(member, row, turns, total) for row, turns in zip(tokens, _graph_turns(graph), strict=True)
        ]
    return rows


def _row(member: Accepted, tokens: TokenRow, turns: tuple[int, ...], episode_tokens: int) -> Row:
    advantages = tuple(
        (member.turns[turn] if member.turns else member.advantage) if is_trained else 0.0
        for turn, is_trained in zip(turns, tokens.mask, strict=True)
    )
    key = member.trajectory.key
    return Row(key=key, tokens=tokens, advantages=advantages, episode_tokens=episode_tokens, turns=turns)


def _graph_turns(graph: TokenGraph) -> Iterator[tuple[int, ...]]:
    """As `Row.turns`, of each row of `graph.rows()`: calls are numbered in the order in which they were made,
    which is the order of segments, as only the newest one grows."""
    number = 0
    for segment in graph.segments:
        turns = [-1] * segment.shared
        for call in segment.calls:
            turns += [-1] * len(call.prompt_ids) + [number] * len(call.completion_ids)
            number += 1
        if any(call.completion_ids for call in segment.calls):
            yield tuple(turns)


def _runs(mask: Sequence[bool]) -> tuple[int, ...]:
    """
    >>> _runs([False, True, True, False, True])
    (-1, 0, 0, -1, 1)
    """
    found: list[int] = []
    number, before = -1, False
    for is_trained in mask:
        number += is_trained and not before
        found.append(number if is_trained else -1)
        before = is_trained
    return tuple(found)


def _prompt(row: Row) -> Prompt:
    return row.key.split, row.key.epoch, row.key.task_id


def expect_sampled(rows: Sequence[Row]) -> None:
    """Raise `ValueError` for a row of whose tokens no engine has sampled one: a demonstration."""
    for row in rows:
        if row.trained and all(row.tokens.versions[at] < 0 for at in row.trained):
            raise ValueError(
                f"a row of {row.key} trains tokens that no engine has sampled, so that they have no "
                'log-probabilities to compare with; train demonstrations with loss="sft", without a KL'
            )


def make_batch(
    rows: Sequence[Row],
    aggregation: Aggregation | str = Aggregation.TOKEN,
    *,
    max_tokens: int | None = None,
    is_fresh: bool = False,
) -> Batch:
    """Rows that make a whole optimizer step by themselves. `max_tokens`: what CONSTANT divides by."""
    normaliser = Normaliser.count(rows, Aggregation(aggregation), max_tokens)
    return Batch(rows=tuple(rows), normaliser=normaliser, is_fresh=is_fresh)


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """The same step in parts, for gradient accumulation: all keep the normaliser of the whole, and no episode
    is split."""
    places = {key: place for place, key in enumerate(dict.fromkeys(row.key for row in batch.rows))}
    parts = (
        tuple(row for row in batch.rows if places[row.key] % num_parts == part) for part in range(num_parts)
    )
    return [replace(batch, rows=rows) for rows in parts if rows]
