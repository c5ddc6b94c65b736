"""How fast the learner is: what it computes of a step's rows, the optimizer steps, and nothing else."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .reports import LossReport


@dataclass(slots=True)
class Speed:
    """Of one step."""

    seconds: float = 0.0
    reports: list[LossReport] = field(default_factory=list[LossReport])
    forward_flops: list[float | None] = field(default_factory=list[float | None])
    """Operations of passes without a gradient; None: nobody knows."""

    @contextmanager
    def timing(self) -> Generator[None, None, None]:
        """The block works for what is added."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started

    def add(self, report: LossReport, *, num_forward: int = 0) -> None:
        """A pass forward and backward, by any number of ranks, and `num_forward` over the same rows without a
        gradient: what the reference, or the policy before the step, says of them."""
        self.reports.append(report)
        self.forward_flops += [report.forward_flops] * num_forward

    def metrics(self, peak: float | None = None) -> dict[str, float]:
        """What is known. `peak`: operations a second of all devices together."""
        if not self.reports or not self.seconds:
            return {}
        found = {
            "train_s": self.seconds,
            "tokens_per_s": sum(report.num_inputs for report in self.reports) / self.seconds,
            "trained_tokens_per_s": sum(report.num_tokens for report in self.reports) / self.seconds,
        }
        flops = [*(report.flops for report in self.reports), *self.forward_flops]
        known = [each for each in flops if each is not None]
        if len(known) == len(flops):
            found["flops_per_s"] = sum(known) / self.seconds
            if peak is not None:
                found["mfu"] = found["flops_per_s"] / peak
        return found
