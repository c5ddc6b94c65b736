"""Every environment of the catalog passes `check_env` on 100 tasks, of the real data where there are some.

Two rows of its report are the bar: the oracle earns the maximum on each task and doing nothing the floor.
Luck decides a hand of blackjack; there the mean over 400 hands is held against the exact optimum.
"""

from importlib.metadata import entry_points
from typing import Any

import pytest
from support import data_path, require, run_async

from palaestra.envs import load_env
from palaestra.envs.check import check_env
from palaestra.envs.registry import GROUP

NUM_TASKS = 100
CATALOG = [
    point.name for point in entry_points(group=GROUP) if point.value.startswith("palaestra.envs.catalog.")
]
EXTRAS = {"arithmetic": "reasoning_gym", "search": "bm25s", "wordle": "textarena"}
"""What an environment wants of the extra `catalog`."""
OPTIONS: dict[str, dict[str, Any]] = {"frozen-lake": {"size": 4, "num_maps": NUM_TASKS}}
DATA: dict[str, list[tuple[str, ...]]] = {
    "code": [("mbpp", "mbpp.jsonl")],
    "finqa": [("finqa_dev", "finqa_dev_flat.jsonl"), ("convfinqa_dev", "convfinqa_dev.json")],
    "gsm8k": [("gsm8k", "train.jsonl")],
    "gsm8k-calculator": [("gsm8k", "train.jsonl")],
    "retail": [("tau_bench", "retail")],
    "sql": [("spider_dev", "questions.jsonl")],
}
"""The others make up as many tasks as one asks for."""
CASES = [
    pytest.param(name, path, id="-".join((name, *path[:1])), marks=[pytest.mark.data] if path else [])
    for name in CATALOG
    for path in DATA.get(name, [()])
]


def checked(name: str, num_tasks: int, options: dict[str, Any]) -> dict[str, str]:
    """What the rows of the report say, all of which have passed."""
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name], reason="needs the extra `catalog`")
    report = run_async(check_env(load_env(name), num_tasks=num_tasks, task_options=options))
    assert report.passed, report
    return {check.name: check.detail for check in report.checks}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "path"), CASES)
def test_check_env_passes_on_a_hundred_tasks(name: str, path: tuple[str, ...]) -> None:
    if path:
        require("data")
    options = {"path": str(data_path(*path))} if path else OPTIONS.get(name, {})
    told = checked(name, NUM_TASKS, options)
    assert told["floor"] == f"{NUM_TASKS} tasks left alone"
    if name == "blackjack":
        assert told["oracle"].startswith("400 episodes within 4 standard errors")
    else:
        assert told["oracle"] == f"{NUM_TASKS} tasks solved"


@pytest.mark.parametrize("name", DATA)
def test_check_env_passes_on_tasks_of_our_own_where_there_is_no_data(name: str) -> None:
    told = checked(name, 4, {})
    assert (told["oracle"], told["floor"]) == ("4 tasks solved", "4 tasks left alone")
