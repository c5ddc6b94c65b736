"""docs/learner.md, held against what was measured."""

import json
import re

from support import ROOT

PAGE = (ROOT / "docs" / "learner.md").read_text(encoding="utf-8")
RATIOS = json.loads((ROOT / "benchmarks" / "results" / "trainer.json").read_text(encoding="utf-8"))["ratios"]
ROWS = {
    "TRL 1.16": "turns: {}, palaestra / trl",
    "the same": "turns: {}, palaestra / trl, one by one",
    "forward,": "turns: {}, palaestra / bare",
    "itself": "prefix: {}, palaestra, shared / palaestra",
}


def test_the_table_of_what_a_step_costs_is_what_was_measured() -> None:
    table = PAGE.split("## What a step costs")[1].split("\n## ")[0]
    found = re.findall(r"^\| (.*?) \| ([\d.]+) x \| ([\d.]+) x \|$", table, re.MULTILINE)
    assert len(found) == len(ROWS)
    for (name, *cells), (start, ratio) in zip(found, ROWS.items(), strict=True):
        assert name.startswith(start)
        for said, what in zip(cells, ("tokens/s", "peak memory"), strict=True):
            digits = len(said.partition(".")[2])
            assert round(RATIOS[ratio.format(what)], digits) == float(said), (name, what)
