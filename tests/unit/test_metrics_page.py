"""docs/metrics.md, held against what a step says and against the table of aliases."""

import math
import re
from dataclasses import replace

from support import ROOT
from trainer_builders import make_group, make_llama_learner, make_row

from palaestra.agents.trajectory import Group
from palaestra.envs import Failed, Ungraded
from palaestra.trainer.judge import judge, overlong_of
from palaestra.trainer.losses import loss_names
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.reporting.metrics import (
    bias_metrics,
    episode_metrics,
    judgement_metrics,
    overlong_metrics,
)
from palaestra.trainer.trackers.aliases import FAMILIES
from palaestra.trainer.update import Updater

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
LOOP = ("step", "epoch", "engine_drift", "engine_drift_mean", "collect_s", "learn_s", "publish_s", "step_s")
"""What `trainer/loop.py` adds itself."""
PATTERNS = {"component_NAME": r"component_\w+", "rejected_REASON": r"rejected_[a-z_]+"}


def tables() -> tuple[str, str]:
    """The page before the names of AWS, and their section."""
    own, aws = PAGE.split("## Names of AWS")
    return own, aws.split("## Early stopping")[0]


def named(page: str) -> list[str]:
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([\w]+)`", cell)]


def said() -> set[str]:
    """Every metric of a few steps that differ in what there is to say."""
    found: set[str] = set(LOOP)
    members = make_group(1.0, 0.0, 0.25, Ungraded(reason="x")).members
    lost = make_group(*[Failed(stage="step", cause="x", retryable=False)] * 4).members[3]
    later = replace(members[1], key=replace(members[1].key, sample=7))
    group = Group(task_id="t", members=(*members[:3], later), replaced=(lost,))
    learner, shown = make_llama_learner(), [make_row([7, 8], [False, True])]
    for loss in loss_names():
        section = GrpoSection.model_validate(
            {
                "loss": loss,
                "aggregation_tokens": 8 if loss == "dr_grpo" else None,
                "sft_coefficient": 0.5,
                "reference": True,
                "kl_coefficient": 0.1 if loss == "ppo_clip" else 0.0,
                "overlong": {"max_tokens": 2, "cache_tokens": 1},
                "updates_per_step": 2,
            }
        )
        judgement = judge([group], section, seed=0, step=0)
        updater = Updater(learner=learner, section=section, demonstrations=shown, peak_flops=1e12)
        found |= updater.update(judgement.accepted, step=1).metrics.keys()
        found |= judgement_metrics(judgement).keys() | overlong_metrics([group], overlong_of(section)).keys()
        found |= (
            bias_metrics([group], judgement, (0.0, 1.0)).keys() | episode_metrics([group], math.inf).keys()
        )
    return found


def test_the_page_lists_what_a_step_says_and_nothing_else() -> None:
    listed = named(tables()[0])
    assert len(listed) == len(set(listed))
    numbered = [name.replace("_K", r"_\d+(_on)?") for name in listed]
    patterns = [PATTERNS.get(name, name) for name in numbered]
    told = said()
    assert [name for name in sorted(told) if not any(re.fullmatch(p, name) for p in patterns)] == []
    unused = [p for p in patterns if not any(re.fullmatch(p, name) for name in told)]
    assert unused == [PATTERNS["component_NAME"]]


def test_the_names_of_aws_on_the_page_are_those_that_trackers_are_told() -> None:
    lines = [line.strip("|").split("|") for line in tables()[1].splitlines() if line.startswith("| `")]
    rows = [[cell.strip(" `") for cell in line] for line in lines]
    shown = {
        family: {row[at]: row[0] for row in rows if row[at]}
        for at, family in enumerate(("sagemaker", "hyperpod", "bedrock"), start=1)
    }
    for family, names in FAMILIES.items():
        ends = {alias: ours for alias, ours in names.items() if alias.endswith(("/min", "/max"))}
        assert shown[family] == {alias: ours for alias, ours in names.items() if alias not in ends}
        assert all(names[f"{alias[:-4]}/mean"] == ours[:-4] for alias, ours in ends.items())
