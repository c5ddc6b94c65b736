"""The conformance suite itself: it notices walls that are not there, and what is left behind."""

import asyncio
import dataclasses
import subprocess
from typing import Any

import pytest
from embedded_box import need
from plain_box import NoView
from support import require, run_async

from palaestra.sandboxes.conformance import ROWS, Broken, Target, Verdict, run_row, suite, view_of
from palaestra.sandboxes.conformance.target import View
from palaestra.sandboxes.enforcement import enforcements
from palaestra.sandboxes.selftest import self_test

FOUND = {
    8: "omitted are not",
    10: "a line of 100 MB",
    18: "names in the environment",
    20: "got through",
    29: "affinity and nproc",
    34: "no sessions",
    37: "names no fault to try",
}
"""What the suite says of a plain subprocess. The rows that would harm this machine are left out."""


@pytest.mark.parametrize("number", FOUND)
def test_a_plain_subprocess_does_not_pass(number: int) -> None:
    target = Target("plain", NoView(), opener="plain_box:open_plain")
    outcome = run_async(run_row(target, number))
    assert outcome.verdict is Verdict.BROKEN and FOUND[number] in outcome.detail, outcome.detail


@pytest.mark.parametrize("number", [1, 2, 11, 13, 14])
def test_a_sandbox_that_leaves_processes_does_not_pass(number: int) -> None:
    need("namespaces")
    target = Target("namespaces", view_of("namespaces"), opener="plain_box:open_forgetful")
    outcome = run_async(run_row(target, number))
    assert outcome.verdict is Verdict.BROKEN and "live" in outcome.detail, outcome.detail


@pytest.mark.parametrize("number", [5, 9, 17, 21, 22, 25, 27, 30])
def test_a_row_whose_program_says_nothing_does_not_pass(number: int) -> None:
    need("namespaces")
    target = Target("namespaces", view_of("namespaces"), opener="plain_box:open_mute")
    assert run_async(run_row(target, number)).verdict is Verdict.BROKEN


def outcome_of(monkeypatch: pytest.MonkeyPatch, view: View, **changes: Any) -> suite.Outcome:
    """What comes of a row that was changed so."""
    monkeypatch.setattr(suite, "ROWS", {15: dataclasses.replace(ROWS[15], **changes)})
    return run_async(run_row(Target("plain", view, opener="plain_box:open_plain"), 15))


def test_what_is_left_behind_breaks_a_row_that_held(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of(monkeypatch, NoView("container 4711"))
    assert outcome.verdict is Verdict.BROKEN and "left behind: container 4711" in outcome.detail


def test_a_row_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(target: Target) -> str:
        await asyncio.sleep(60)
        return "too late"

    outcome = outcome_of(monkeypatch, NoView(), attack=endless, limit_s=0.2)
    assert outcome.verdict is Verdict.BROKEN and "did not end in 0.2 s" in outcome.detail
    assert outcome.seconds < 5


def test_a_breach_is_told_in_the_rows_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def breached(target: Target) -> str:
        raise Broken("got out by the window")

    assert outcome_of(monkeypatch, NoView(), attack=breached).detail == "got out by the window"


def test_a_backend_without_a_view_is_seen_from_outside() -> None:
    view = view_of("of somebody else")
    before = view.everything()
    child = subprocess.Popen(["sleep", "60"])
    try:
        (seen,) = view.everything() - before
        assert f"process {child.pid} " in seen and not view.programs()
    finally:
        child.kill()
        child.wait()
    assert view.everything() <= before


BY = {
    "namespaces": {
        "memory": ["supervisor"],
        "pids": ["rlimit"],
        "disk": ["tmpfs"],
        "cpus": ["affinity"],
        "network": ["network namespace"],
    },
    "landlock": {
        "memory": ["supervisor"],
        "disk": ["supervisor", "rlimit"],
        "cpus": ["affinity"],
        "network": ["seccomp"],
    },
    "docker": {
        "memory": ["cgroup"],
        "pids": ["cgroup"],
        "disk": ["tmpfs"],
        "cpus": ["cgroup", "affinity"],
        "network": ["network namespace"],
    },
}
"""Who counts a landlock tier's processes depends on whether its driver is root."""


@pytest.mark.parametrize("tier", ["namespaces", "landlock", pytest.param("docker", marks=pytest.mark.docker)])
def test_each_limit_is_enforced_by_whom_it_says(tier: str) -> None:
    require("docker") if tier == "docker" else need(tier)
    found = {each.limit: list(each.by) for each in run_async(enforcements(tier))}
    assert set(found) == {"memory", "pids", "disk", "cpus", "network"} and all(found.values())
    assert found | BY[tier] == found


@pytest.mark.docker
def test_the_walls_of_docker_are_tried_like_those_of_the_others() -> None:
    require("docker")
    test = run_async(self_test("docker"))
    assert set(test.walls) == {"memory", "pids", "disk", "network", "filesystem", "processes", "time"}
    assert test.ok and set(test.proofs) == set(test.walls)
