"""What benchmarks/sandboxes.py prints, and who takes part in it."""

import re
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from sandbox_contestants import Contestant, Missing, answer, set_up
from sandbox_race import Race, Turn
from sandbox_swerex import SweRex, SweRexDocker
from sandbox_table import lines, measured, ratios, table
from support import run_async


class Named(Contestant):
    def __init__(self, name: str) -> None:
        self.name = name

    async def once(self, number: int) -> bytes:
        return answer(number)


class Absent(Named):
    async def setup(self) -> None:
        raise Missing("pip install\nit")


def race(**latencies_s: float) -> Race:
    """Two rounds with one in flight: each execution takes that long, in the second round twice as long."""
    names = {name.replace("_", " "): seconds for name, seconds in latencies_s.items()}
    found = Race([Named(name) for name in names], [1])
    for name, seconds in names.items():
        first = Turn(latencies_s=[seconds] * 4, seconds=4 * seconds, cpu_s=seconds, lost=0, why="")
        found.turns[name][1] += [first, replace(first, latencies_s=[2 * seconds] * 4, seconds=8 * seconds)]
    return found


def cells(printed: list[str], name: str) -> Iterator[list[str]]:
    return (
        line.removeprefix(name).split() for line in printed if re.match(rf"{re.escape(name)} {{2}}", line)
    )


def test_who_cannot_take_part_is_in_the_table_with_the_reason() -> None:
    async def play() -> tuple[list[Contestant], dict[str, str]]:
        async with AsyncExitStack() as stack:
            return await set_up(stack, [Named("here"), Absent("elsewhere")])

    ready, missing = run_async(play())
    assert [who.name for who in ready] == ["here"]
    printed = table(race(here=0.01), {"here": {"p50": 10.0}}, [1], missing)
    assert [line.split() for line in printed if "elsewhere" in line] == [
        ["elsewhere", "not", "measured:", "pip", "install", "it"]
    ]


def test_without_swe_rex_its_rows_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swerex", None)  # an import raises ImportError
    monkeypatch.setitem(sys.modules, "swerex.runtime.abstract", None)
    for who in (
        SweRex("local", sys.executable, in_session=False),
        SweRexDocker("docker", tmp_path, in_session=True),
    ):
        with pytest.raises(Missing, match="pip install swe-rex"):
            run_async(who.setup())
        run_async(who.teardown())


def test_the_printed_ratios_are_those_that_the_file_has() -> None:
    ran = race(subprocess=0.04, namespaces=0.01, swe_rex_session=0.4, docker_exec=0.2)
    ran.turns["swe-rex session"] = ran.turns.pop("swe rex session")
    assert measured(ran) == {
        "subprocess": ["namespaces", "docker exec", "swe-rex session"],
        "docker exec": [],
        "swe-rex session": ["namespaces"],
    }
    printed = table(ran, {}, [1], {})
    assert "over docker exec" not in "\n".join(printed), "nobody is measured by it here"
    over_subprocess, over_swe_rex = cells(printed, "namespaces")
    assert over_subprocess[:2] == ["0.25", "x"] and over_swe_rex[:2] == ["0.025", "x"]
    found = ratios(ran)
    assert found["namespaces p50 / subprocess p50"] == pytest.approx(0.25)
    assert found["namespaces per_s_at_1 / swe-rex session per_s_at_1"] == pytest.approx(40)


def test_a_lost_output_is_shown_under_its_row_and_an_unknown_figure_is_a_dash() -> None:
    ran = race(subprocess=0.04)
    ran.turns["subprocess"][1][0] = replace(ran.turns["subprocess"][1][0], lost=1, why="b'' in place of b'7'")
    head, row, why = lines(ran, [1, 8], {"subprocess": ran.row("subprocess")})
    assert head.split()[-2:] == ["ms", "lost"] and row.split()[-1] == "1"
    assert row.split()[4] == "-", "nobody had 8 in flight"
    assert "lost, for one: b'' in place of b'7'" in why
