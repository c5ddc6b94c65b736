"""The benchmarks run, and the bars that hold on any machine hold: they are ratios within one run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import require

pytestmark = pytest.mark.alone

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EMBEDDED = ("namespaces", "landlock")
OURS = (*EMBEDDED, "docker agent")
SWE_REX = ("swe-rex execute", "swe-rex session")
PEERS = ("docker exec", "docker run", *SWE_REX, "swe-rex docker execute", "swe-rex docker session")
PLAIN = ("subprocess", "subprocess -S", "subprocess (host)")


def figures(script: str, folder: Path, *options: str) -> dict[str, Any]:
    """Run a benchmark and read what it wrote."""
    result = folder / "figures.json"
    command = [sys.executable, "-P", str(BENCHMARKS / script), "--json", str(result), *options]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(result.read_text())
    assert found["conditions"]
    return found


@pytest.mark.timeout(600)
def test_an_episode_costs_under_six_times_a_bare_client(tmp_path: Path) -> None:
    found = figures("rollouts.py", tmp_path)["ratios"]
    episodes = {name: value for name, value in found.items() if "episode" in name}
    assert episodes, f"no ratio of whole episodes in {sorted(found)}"
    assert all(value < 6 for value in episodes.values()), found


def validations(folder: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = figures("dataset_validation.py", folder, *options)["datasets"]
    forms = ["questions", "prompts", "verl"]
    assert sorted(found) == sorted([*forms, "with tools", *(f"{form} against" for form in forms)])
    return found


@pytest.mark.timeout(600)
def test_a_validation_of_a_few_rows_costs_about_three_times_their_parsing_at_most(tmp_path: Path) -> None:
    # A fourth, for one short round; the constants are most of the memory of so few rows.
    short = ("--rows", "20000", "--rounds", "1", "--max-ratio", "4", "--max-bytes", "1000")
    found = validations(tmp_path, *short)
    assert max(each["ratio"] for each in found.values()) <= 4, found


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_one_of_a_hundred_thousand_costs_three_times_at_most_and_64_bytes_a_row(tmp_path: Path) -> None:
    found = validations(tmp_path)
    assert all(each["ratio"] <= 3 and each["bytes_per_row"] <= 64 for each in found.values()), found


def outstanding_grades(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-P", str(BENCHMARKS / "grading.py"), "--jobs", "1000", *options]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def test_a_thousand_outstanding_grades_cost_under_50_mb_and_1_percent() -> None:
    found = outstanding_grades("--callback", "--age", "1", "--seconds", "5")
    assert found["memory_mb"] < 50 and found["processor_percent"] < 1, found


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_so_do_a_thousand_that_are_asked_for() -> None:
    found = outstanding_grades("--age", "45", "--seconds", "90")
    assert found["memory_mb"] < 50 and found["processor_percent"] < 1, found
    assert found["polls_in_all"] > 3000, "they were asked for"


@pytest.mark.timeout(600)
def test_sandboxes_cost_no_more_than_twice_a_plain_python_and_lose_no_output(tmp_path: Path) -> None:
    short = ("--rounds", "1", "--turn-s", "0.5", "--in-flight", "1", "8", "--soak", "200")
    found = figures("sandboxes.py", tmp_path, *short)
    rows, missing = found["conditions"]["rows"], found["conditions"]["missing"]
    assert sorted([*rows, *missing]) == sorted([*PLAIN, *PEERS, *OURS])
    assert all(missing.values()), f"each that is missing says why: {missing}"
    if "peers" in os.environ.get("PALAESTRA_REQUIRE", "").split(","):
        assert set(SWE_REX) <= set(rows), missing
    for name in {"subprocess", *OURS} & set(rows):
        assert rows[name]["lost"] == 0, f"{name}: {rows[name]}"
        assert {"p50", "p95", "per_s_at_1", "per_s_at_8"} <= set(rows[name]), f"{name}: {rows[name]}"
    costs = {name: found["ratios"][f"{name} cpu / subprocess cpu"] for name in EMBEDDED if name in rows}
    assert costs and max(costs.values()) < 2, costs
    soaked = [bar for bar in found["bars"] if bar.endswith("soak_lost")]
    if "namespaces" in rows:
        assert [found["bars"][bar] for bar in soaked] == ["pass"], found["bars"]


BARS_OF_THE_TRAINER = (
    "turns: tokens/s, palaestra / trl",
    "turns: peak memory, palaestra / trl",
    "turns: tokens/s, palaestra / bare",
)


@pytest.mark.timeout(600)
def test_an_optimizer_step_is_as_fast_as_bare_torch_and_takes_less_memory(tmp_path: Path) -> None:
    # Two episodes in place of eight. In processor time bare takes 1.23 to 1.36 of ours there: the bar itself
    # leaves room for what else a machine does.
    short = ("--only", "palaestra", "bare", "--episodes", "2", "--rounds", "3")
    found = figures("trainer.py", tmp_path, *short)
    assert [found["bars"][bar] for bar in BARS_OF_THE_TRAINER] == ["not measured"] * 2 + ["pass"], found
    assert found["ratios"]["turns: peak memory, palaestra / bare"] < 0.9, found
    first = found["conditions"]["rows"]["turns"]
    for figure in ("first_loss", "first_grad_norm"):
        assert first["palaestra"][figure] == pytest.approx(first["bare"][figure], rel=1e-4)


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_it_is_four_times_as_fast_as_trl_s_in_a_third_of_the_memory(tmp_path: Path) -> None:
    require("trl")
    found = figures("trainer.py", tmp_path, "--only", "palaestra", "bare", "trl")
    assert {bar: found["bars"][bar] for bar in BARS_OF_THE_TRAINER} == dict.fromkeys(
        BARS_OF_THE_TRAINER, "pass"
    ), found


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_shared_prefixes_pay_in_a_group_with_a_long_prompt(tmp_path: Path) -> None:
    found = figures("trainer.py", tmp_path, "--only", "palaestra", "palaestra, shared")
    assert found["ratios"]["prefix: tokens/s, palaestra, shared / palaestra"] > 1.5, found
