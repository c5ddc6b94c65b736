"""After a publish: does the engine hold the weights that the learner thinks it published?"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .engine import Engine, PolicyVersion, Sampling
from .errors import EngineError, EngineRefused

LogprobsOf = Callable[[Sequence[int], Sequence[int]], Sequence[float]]
"""The learner's log-probabilities, nats, of an answer's tokens: (prompt, answer) -> [len(answer)]."""


class PolicyDrift(EngineError):
    """The engine samples from other weights than the learner published: its tokens would teach noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryReport:
    """How far apart engine and learner are."""

    version: PolicyVersion
    num_tokens: int
    max_drift: float
    """Nats, over all tokens; NaN if one was."""
    mean_drift: float
    """Nats."""


_HOT = 1e4


async def expect_processed_logprobs(engine: Engine) -> None:
    """Raise `EngineRefused` where the engine reports log-probabilities of before the temperature.

    At a temperature of 10,000 all tokens are as likely, which log-probabilities of after it show. A model
    that finds its tokens as likely at 1 passes too.
    """
    hot = Sampling(temperature=_HOT, max_tokens=16)
    answer = await engine.generate([0], hot, policy=PolicyVersion(0), seed=0)
    apart = max(answer.logprobs) - min(answer.logprobs)
    if not apart <= 0.1:
        raise EngineRefused(
            f"the log-probabilities of tokens as likely at temperature {_HOT:g} are {apart:.2g} nats apart: "
            "the server reports those of before the temperature; start it with --logprobs-mode "
            "processed_logprobs, or set sampling.temperature to 1"
        )


async def canary(
    engine: Engine,
    logprobs_of: LogprobsOf,
    version: PolicyVersion,
    prompts: Sequence[Sequence[int]],
    bound: float,
    *,
    temperature: float = 1.0,
    max_tokens: int = 16,
) -> CanaryReport:
    """Sample an answer to each prompt and compare log-probabilities. Raises `PolicyDrift` over `bound` nats.

    `logprobs_of` runs in a thread; it shall use the same temperature.
    """
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    answers = await asyncio.gather(
        *(engine.generate(prompt, sampling, policy=version, seed=seed) for seed, prompt in enumerate(prompts))
    )
    drifts = list[float]()
    for prompt, answer in zip(prompts, answers, strict=True):
        learned = await asyncio.to_thread(logprobs_of, prompt, answer.ids)
        drifts += [abs(ours - theirs) for ours, theirs in zip(answer.logprobs, learned, strict=True)]
    if not drifts:
        raise ValueError("prompts: the canary needs one at least")
    report = CanaryReport(
        version=version,
        num_tokens=len(drifts),
        max_drift=next((drift for drift in drifts if drift != drift), max(drifts)),
        mean_drift=sum(drifts) / len(drifts),
    )
    if not report.max_drift <= bound:  # a NaN is over every bound
        raise PolicyDrift(
            f"version {version}: engine and learner differ by {report.max_drift:.2g} nats over "
            f"{report.num_tokens} tokens (bound {bound:.2g}): the engine has other weights"
        )
    return report
