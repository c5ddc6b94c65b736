"""After a publish: does the engine hold the weights that the learner thinks it published?"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .engine import Engine, PolicyVersion, Sampling
from .errors import EngineError, EngineRefused

LogprobsOf = Callable[[Sequence[int], Sequence[int]], Sequence[float]]
"""The learner's log-probabilities, nats, of an answer's tokens: (prompt, answer) -> [len(answer)]."""


class PolicyDrift(EngineError):
    """The engine samples from other weights than the learner published: its tokens would teach noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftBound:
    """How far apart engine and learner may be, nats, before it is called other weights.

    >>> DriftBound(largest=1e-3).is_kept(largest=2e-4, mean=1e-4)
    True
    """

    largest: float
    """Over all tokens."""
    mean: float | None = None

    def is_kept(self, *, largest: float, mean: float) -> bool:
        return largest <= self.largest and (self.mean is None or mean <= self.mean)  # NaN is over every bound

    def __str__(self) -> str:
        mean = "" if self.mean is None else f", mean {self.mean:.2g}"
        return f"{self.largest:.2g}{mean}"


USUAL_BOUNDS: dict[Literal["float32", "bfloat16"], DriftBound] = {
    "float32": DriftBound(largest=1e-3),
    "bfloat16": DriftBound(largest=2.0, mean=0.1),
}
"""By the precision that both sides compute in.

In float32 the right weights are less than 1e-4 apart. In bfloat16 single tokens of the right ones are as far
apart as those of wrong ones, and the mean tells them apart, but for small mistakes. Measured with vLLM 0.32
on a CPU, mean nats, the least and the most of 16 samples of 64 tokens, as many as a run asks for:

                              untrained          trained to 1.4 nats   44 M, vocabulary of 151,936, untrained
    right weights             0.003 .. 0.006     0.003 .. 0.012        0.040 .. 0.062
    right, at temperature 0.7 0.006 .. 0.008     0.004 .. 0.014        0.052 .. 0.081
    layers swapped            0.75 .. 1.07       2.4 .. 4.5            9.6 .. 11.6
    one down_proj is zero     0.20 .. 0.27       0.08 .. 0.22          2.5 .. 4.0
    the head of 5 steps ago   -                  0.20 .. 0.62 (tied)   -
    a step at 1e-3 is missing -                  0.11 .. 0.30          1.06 .. 1.83
    5 steps at 1e-4 are       -                  0.03 .. 0.15          -

One token of the right weights was up to 0.03, 0.58 and 0.39 apart. Published means of right weights: 0.011
for Qwen3-4B (github.com/vllm-project/vime, issue 64), 0.064 for a mixture of experts
(github.com/verl-project/verl-omni, issue 637). A step at a usual rate that did not arrive is less than
rounding, and is not seen in bfloat16.
"""


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
    bound: DriftBound,
    *,
    temperature: float = 1.0,
    max_tokens: int = 16,
) -> CanaryReport:
    """Sample an answer to each prompt and compare log-probabilities. Raises `PolicyDrift` over the bound.

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
    if not bound.is_kept(largest=report.max_drift, mean=report.mean_drift):
        raise PolicyDrift(
            f"version {version}: engine and learner differ by up to {report.max_drift:.2g} nats, mean "
            f"{report.mean_drift:.2g}, over {report.num_tokens} tokens (bound {bound}): the engine has other "
            "weights, or computes in another precision than model.dtype; engine.canary_bound sets the bound"
        )
    return report
