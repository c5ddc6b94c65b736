"""Samples from a learner's weights of this moment, in this process: no server and no event loop."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import transformers
from transformers import PreTrainedModel

from ..agents.engine import Generation, PolicyVersion, Sampling
from ..agents.engines.runner import Runner
from ..agents.engines.slots import Request
from ..agents.errors import EngineError
from ..agents.tokengraph import TokenGraph
from ..agents.trajectory import EpisodeKey
from ._torch import seeded
from .batches.rows import Row
from .ranks.leader import AnyLearner


def sample(
    learner: AnyLearner,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seed: int = 0,
    to_train: bool = True,
) -> list[Generation]:
    """An answer to each prompt, by the weights that the learner has now; the same seed, the same answers.

    `prompts`: [num][T] token ids. Answer n has the seed `seed + n`. `to_train` False is for answers that are
    only looked at. The weights are copied each time: for much play, use an engine. Raises `ValueError` for a
    model that the local engine does not know, and, of what is to be trained on, for another temperature than
    the learner's or a `top_p` under 1: the ratio of the two policies would not start at 1. And `EngineError`.
    """
    if to_train:
        _expect_trainable(sampling, learner.config.temperature)
    state = dict(learner.state_for_engine())
    longest = max(map(len, prompts)) + sampling.max_tokens
    runner = Runner(
        _plain(learner.model, state), slots=min(len(prompts), 64), max_context=longest, deterministic=False
    )
    answers: dict[int, Generation | EngineError] = {}
    for number, prompt in enumerate(prompts):
        deliver = partial(answers.__setitem__, number)
        runner.submit([_request(prompt, sampling, (seed + number) % 2**64, deliver)])
    while runner.step():
        pass
    return [_good(answers[number]) for number in range(len(prompts))]


def sampled_row(key: EpisodeKey, prompt: Sequence[int], answer: Generation, advantage: float) -> Row:
    """A row that trains an answer; `key` says whose it is, one for each episode."""
    (tokens,) = TokenGraph().commit(prompt, answer).rows()
    advantages = tuple(advantage if is_trained else 0.0 for is_trained in tokens.mask)
    return Row(key=key, tokens=tokens, advantages=advantages, episode_tokens=sum(tokens.mask))


def _expect_trainable(sampling: Sampling, temperature: float) -> None:
    if sampling.temperature != temperature or sampling.top_p < 1:
        raise ValueError(
            f"temperature {sampling.temperature:g} and top_p {sampling.top_p:g}, and the learner trains on "
            f"samples of temperature {temperature:g} and top_p 1: set them so, or pass to_train=False and do "
            "not train on these"
        )


def _request(
    prompt: Sequence[int],
    sampling: Sampling,
    seed: int,
    deliver: Callable[[Generation | EngineError], None],
) -> Request:
    return Request(
        prompt=np.array(prompt, np.int64),
        sampling=sampling,
        seed=seed,
        version=PolicyVersion(0),
        end=len(prompt) + sampling.max_tokens,
        deliver=deliver,
    )


def _good(answer: Generation | EngineError) -> Generation:
    if isinstance(answer, EngineError):
        raise answer
    return answer


def _plain(model: PreTrainedModel, state: dict[str, Any]) -> Any:
    """The model without its adapter, with these weights."""
    untyped: Any = transformers
    with seeded(0):  # its first weights are random, and of no interest
        plain = untyped.AutoModelForCausalLM.from_config(model.config)
    plain.load_state_dict(state, strict=False)  # a tied head has no name
    return plain.to(model.device).eval()
