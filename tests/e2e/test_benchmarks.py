"""The benchmarks run, and the bars that hold on any machine hold: they are ratios within one run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def ratios(script: str, folder: Path, *options: str) -> dict[str, float]:
    """Run a benchmark and read its ratios."""
    result = folder / "figures.json"
    command = [sys.executable, "-P", str(BENCHMARKS / script), "--json", str(result), *options]
    subprocess.run(command, check=True)
    figures = json.loads(result.read_text())
    assert figures["conditions"]
    found: dict[str, float] = figures["ratios"]
    return found


@pytest.mark.timeout(600)
def test_an_episode_costs_under_six_times_a_bare_client(tmp_path: Path) -> None:
    found = ratios("rollouts.py", tmp_path)
    episodes = {name: value for name, value in found.items() if "episode" in name}
    assert episodes, f"no ratio of whole episodes in {sorted(found)}"
    assert all(value < 6 for value in episodes.values()), found


@pytest.mark.timeout(600)
def test_a_sandbox_costs_no_more_than_twice_a_plain_python(tmp_path: Path) -> None:
    found = ratios("sandboxes.py", tmp_path, "--count", "20")
    tiers = [value for name, value in found.items() if name.startswith(("namespaces", "landlock"))]
    assert tiers and max(tiers) < 2, found
