"""How fast the learner is: forward and backward passes with their optimizer steps, and nothing else."""

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

    @contextmanager
    def timing(self) -> Generator[None, None, None]:
        """The block works for the reports that are added."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started

    def add(self, report: LossReport) -> None:
        """A pass, by any number of ranks."""
        self.reports.append(report)

    def metrics(self, peak: float | None = None) -> dict[str, float]:
        """What is known. `peak`: operations a second of all devices together."""
        if not self.reports or not self.seconds:
            return {}
        found = {
            "train_s": self.seconds,
            "tokens_per_s": sum(report.num_inputs for report in self.reports) / self.seconds,
            "trained_tokens_per_s": sum(report.num_tokens for report in self.reports) / self.seconds,
        }
        flops = [report.flops for report in self.reports if report.flops is not None]
        if len(flops) == len(self.reports):
            found["flops_per_s"] = sum(flops) / self.seconds
            if peak is not None:
                found["mfu"] = found["flops_per_s"] / peak
        return found
