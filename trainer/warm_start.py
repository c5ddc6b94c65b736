"""Demonstrations as training rows, and a short supervised start on them."""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice

from ..agents.formats import tool_format
from ..agents.renderer import Renderer
from ..agents.rows import to_rows
from ..agents.tokengraph import TokenRow
from ..agents.trajectory import EpisodeKey, Trajectory
from ..envs import AssistantMessage, Episode
from .batches.rows import Row, make_batch
from .errors import Diverged
from .ranks.leader import AnyLearner
from .recipe import Recipe, WarmStartSection
from .reporting.speed import Speed


def oracle_texts(recipe: Recipe, demonstrations: Iterable[Trajectory]) -> Iterator[str]:
    """What a tokenizer should know: everything that is heard and said in some demonstrations."""
    format = tool_format(recipe.model.tool_format)
    for each in demonstrations:
        tools = each.episode.tools if recipe.model.describe_tools else ()
        for row in to_rows(each.episode.messages, tools, format):
            yield row["role"]
            yield row["content"]
        for message in each.episode.messages:
            if isinstance(message, AssistantMessage):
                yield format.render(message)


def demonstrate(key: EpisodeKey, episode: Episode, renderer: Renderer) -> Row:
    """The tokens that a policy would have seen and sampled, had it said what the episode's policy said.

    What the policy said is trained, the end of its turn included; answers in the opening are not.
    """
    ids: list[int] = []
    mask: list[bool] = []
    played = range(episode.num_opening, len(episode.messages))
    answers = [at for at in played if isinstance(episode.messages[at], AssistantMessage)]
    last: AssistantMessage | None = None
    answer_ids: tuple[int, ...] = ()
    begin = 0
    for at in answers:
        heard, new = episode.messages[:begin], episode.messages[begin:at]
        if last is None:
            prompt = renderer.opening(new, episode.tools)
        else:
            prompt = renderer.delta(heard[:-1], answer_ids, last, new, episode.tools)
        message = episode.messages[at]
        assert isinstance(message, AssistantMessage)
        last, answer_ids, begin = message, renderer.answer_ids(message), at + 1
        ids += [*prompt, *answer_ids]
        mask += [False] * len(prompt) + [True] * len(answer_ids)
    return demonstration_row(key, ids, mask)


def demonstration_row(key: EpisodeKey, ids: Sequence[int], mask: Sequence[bool]) -> Row:
    """A row for the "sft" loss: no engine sampled it, so it has no logprobs and no version."""
    tokens = TokenRow(ids=tuple(ids), mask=tuple(mask), logprobs=(0.0,) * len(ids), versions=(-1,) * len(ids))
    return Row(key=key, tokens=tokens, advantages=(0.0,) * len(ids), episode_tokens=sum(mask))


def warm_start(
    learner: AnyLearner,
    rows: Sequence[Row],
    section: WarmStartSection,
    *,
    seed: int = 0,
    done: Sequence[Mapping[str, float]] = (),
) -> Iterator[dict[str, float]]:
    """Train on demonstrations; yields the numbers of each step: `step`, from 1, `sft_loss`, nats a token,
    `lr`, `grad_norm`, `skipped`, which is 1.0 where the gradient was not finite and is thrown away, and how
    fast it was (`Speed`).

    `done`: the steps before, for a learner that has them behind it; the others follow bit for bit. The
    demonstrations are shuffled anew each time that all were seen. Raises `Diverged` for a loss that is not
    finite, and where no gradient was.
    """
    source, smooth = _shuffled_forever(rows, seed, skip=len(done) * section.batch_size), None
    for row in done:
        smooth = _smoothed(smooth, row["sft_loss"])
    for step in range(len(done) + 1, section.steps + 1):
        if smooth is not None and section.target_loss is not None and smooth <= section.target_loss:
            break
        row = {"step": step, **_imitate(learner, [next(source) for _ in range(section.batch_size)], step)}
        smooth = _smoothed(smooth, row["sft_loss"])
        yield row
    if not learner.num_steps:
        raise Diverged(
            "warm start: no gradient was finite, so that nothing was learned; set "
            "model.dtype to float32, or lower warm_start.optimizer.lr"
        )


def _imitate(learner: AnyLearner, rows: Sequence[Row], step: int) -> dict[str, float]:
    """One optimizer step, and its numbers."""
    speed = Speed()
    with speed.timing():
        report = learner.forward_backward(make_batch(rows), loss="sft", temperature=1.0)
        if not math.isfinite(report.loss):
            raise Diverged(
                f"warm start, step {step}: the loss is {report.loss}; look at the weights that it "
                "started from, or lower warm_start.optimizer.lr"
            )
        stepped = learner.optim_step()
    speed.add(report)
    return {
        "sft_loss": report.loss,
        "lr": stepped.lr,
        "grad_norm": stepped.grad_norm,
        "skipped": float(stepped.is_skipped),
        "trained_tokens": float(report.num_tokens),
        **speed.metrics(),
    }


def _smoothed(before: float | None, loss: float) -> float:
    """Over about five steps."""
    return loss if before is None else 0.8 * before + 0.2 * loss


def _shuffled_forever(rows: Sequence[Row], seed: int, *, skip: int = 0) -> Iterator[Row]:
    """Each pass over the rows in an order of its own, but for the first `skip`."""
    if not rows:
        raise ValueError(
            "no demonstrations to warm up on; does the environment have an oracle that succeeds?"
        )
    order = random.Random(seed)
    # A batch may hold the end of one pass and the start of the next.
    places = ((at, epoch) for epoch in count() for at in order.sample(range(len(rows)), len(rows)))
    for at, epoch in islice(places, skip, None):
        yield _alone(rows[at], epoch, at)


def _alone(row: Row, epoch: int, sample: int) -> Row:
    """As an episode of its own."""
    return replace(row, key=replace(row.key, epoch=epoch, sample=sample), episode_tokens=sum(row.tokens.mask))
