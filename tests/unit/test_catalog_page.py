"""docs/envs/README.md, held against the catalog: every environment, its page, and the lines of its files."""

import inspect
import re
from collections import Counter
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from support import ROOT

from palaestra.envs import load_env
from palaestra.envs.registry import GROUP

PAGES = ROOT / "docs" / "envs"
CATALOG = ROOT / "envs" / "catalog"
MAX_LINES = 150
LARGER = {
    "code": "it makes up requests with their programs and tests, so that it is of use without MBPP",
    "finqa": "it reads two data sets with two kinds of tables and programs",
    "frozen-lake": "it draws maps that can be crossed, and its oracle finds the shortest way across",
    "retail": "it is a shop: records, sixteen tools that change them, a demo, and tau-bench's files",
}
"""Why all files of an environment together have more lines; the file with its class never has."""


@cache
def files_of(path: Path) -> frozenset[Path]:
    """The file, and those of the catalog that it takes from, and so on; a folder is one environment's."""
    if path.parent != CATALOG:
        return frozenset(path.parent.glob("*.py"))
    taken = re.findall(r"^from \.(\w+) import", path.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset({path}).union(*(files_of(CATALOG / f"{module}.py") for module in taken))


def shown() -> dict[str, int]:
    """The lines that the page gives, by name."""
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d,]+) \|$", page("README"), re.MULTILINE)
    return {name: int(lines.replace(",", "")) for name, lines in rows}


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_every_environment_of_the_catalog_has_a_row_with_the_lines_of_its_files() -> None:
    """Helpers that several environments share, such as a reader of rows, are nobody's own."""
    ours = [
        point.name for point in entry_points(group=GROUP) if point.value.startswith("palaestra.envs.catalog.")
    ]
    file = {name: Path(inspect.getfile(load_env(name))) for name in ours}
    times = Counter(path for each in set(file.values()) for path in files_of(each))
    own = {name: sum(lines(path) for path in files_of(file[name]) if times[path] == 1) for name in ours}
    assert shown() == own
    assert {name for name, number in own.items() if number > MAX_LINES} == LARGER.keys()
    assert max(map(lines, file.values())) <= MAX_LINES


def test_every_environment_of_the_catalog_has_a_page_with_measured_numbers() -> None:
    """The oracle's and those of doing nothing, and a command by which they are seen again."""
    linked = dict(
        re.findall(r"^\| `([\w-]+)` \|.*\[[\w-]+\.md\]\(([\w-]+)\.md\)", page("README"), re.MULTILINE)
    )
    assert linked.keys() == shown().keys()
    for name, own in linked.items():
        assert re.search(r"^\| oracle\b.*\|.*-?\d\.\d{3}", page(own), re.MULTILINE), name
        assert re.search(r"^\| (says |doing )?nothing\b.*\|.*-?\d\.\d{3}", page(own), re.MULTILINE), name
        assert f"palaestra check env {name}" in page(own), name
