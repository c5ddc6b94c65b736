"""Every row of the conformance suite on every tier, as root and as an ordinary user."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from embedded_box import need
from ordinary_user import OTHER_USER, need_root, python_for, run_as
from support import require, run_async

from palaestra.sandboxes import SandboxSpec, open_sandbox
from palaestra.sandboxes.conformance import ROWS, Outcome, Target, Verdict, refusal, run_row, view_of
from palaestra.sandboxes.conformance.matrix import REFUSED_AS, cells
from palaestra.sandboxes.refusals import REFUSED

pytestmark = pytest.mark.alone

EMBEDDED = ("namespaces", "landlock")
MAY_REFUSE = {4, 5, 6, 7, 17}
"""Rows that a tier may refuse at all, and only landlock."""


def attack(tier: str, number: int, *, is_full: bool = False) -> Outcome:
    return run_async(run_row(Target(tier, view_of(tier), is_full=is_full), number))


def check(outcome: Outcome) -> None:
    wanted = Verdict.REFUSED if refusal(outcome.row, outcome.tier) else Verdict.HELD
    assert outcome.verdict is wanted, f"row {outcome.row}, {outcome.title}: {outcome.detail}"


def need_backend(tier: str) -> None:
    if tier == "docker":
        require("docker")
    else:
        need(tier)


on_each_tier = pytest.mark.parametrize("tier", [*EMBEDDED, pytest.param("docker", marks=pytest.mark.docker)])


@on_each_tier
@pytest.mark.parametrize("number", ROWS)
def test_a_row_holds_or_is_refused_as_the_matrix_says(tier: str, number: int) -> None:
    need_backend(tier)
    check(attack(tier, number))


@pytest.mark.acceptance
@pytest.mark.timeout(900)
@on_each_tier
@pytest.mark.parametrize("number", ROWS)
def test_a_row_holds_in_its_full_size(tier: str, number: int) -> None:
    need_backend(tier)
    check(attack(tier, number, is_full=True))


DRIVER = """
import asyncio, dataclasses, json, sys
from palaestra.sandboxes.conformance import Target, run_suite, view_of

async def main():
    target = Target(sys.argv[1], view_of(sys.argv[1]), is_full=sys.argv[2] == "full")
    async for outcome in run_suite(target):
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)

asyncio.run(main())
"""


@cache
def as_ordinary_user(tier: str, size: str) -> Mapping[int, Outcome]:
    """Every row's outcome for a driver without any privilege, in one process."""
    done = run_as(OTHER_USER, [python_for(OTHER_USER), "-c", DRIVER, tier, size])
    assert done.returncode == 0, done.stderr.decode()
    found: dict[int, Outcome] = {}
    for line in done.stdout.splitlines():
        fields: dict[str, Any] = json.loads(line)
        fields["verdict"] = Verdict(fields["verdict"])
        found[fields["row"]] = Outcome(**fields)
    return found


@pytest.mark.parametrize("number", ROWS)
def test_a_row_holds_for_an_ordinary_user(number: int) -> None:
    need_root()
    need("namespaces")
    check(as_ordinary_user("namespaces", "quick")[number])


@pytest.mark.acceptance
@pytest.mark.timeout(900)  # the first of a tier and size plays all rows
@pytest.mark.parametrize(
    ("tier", "size"), [("landlock", "quick"), ("namespaces", "full"), ("landlock", "full")]
)
@pytest.mark.parametrize("number", ROWS)
def test_a_row_holds_for_an_ordinary_user_in_other_forms(tier: str, size: str, number: int) -> None:
    need_root()
    need(tier)
    check(as_ordinary_user(tier, size)[number])


def test_only_landlock_refuses_and_only_what_it_may() -> None:
    table = cells()
    assert set(table) == set(ROWS)
    refused = {(row, tier) for row, tiers in table.items() for tier, word in tiers.items() if word != "holds"}
    assert {word for tiers in table.values() for word in tiers.values()} <= {"holds", "refuses"}
    assert refused == set(REFUSED_AS)
    assert {tier for _, tier in refused} <= {"landlock"} and {row for row, _ in refused} <= MAY_REFUSE
    assert all(ROWS[row].refusal is not None for row, _ in refused)


@on_each_tier
def test_each_refusal_is_listed_by_the_capabilities(tier: str) -> None:
    need_backend(tier)

    async def listed() -> Mapping[str, str]:
        async with open_sandbox(SandboxSpec(backend=tier)) as box:
            return box.capabilities().refused

    refused = {name for (_, refusing), name in REFUSED_AS.items() if refusing == tier}
    assert refused <= set(run_async(listed()))
    assert dict(run_async(listed())) == dict(REFUSED.get(tier, {}))
