"""docs/envs/README.md, held against the catalog."""

import inspect
import re
from importlib.metadata import entry_points

from support import ROOT

from palaestra.envs import load_env
from palaestra.envs.registry import GROUP

MAX_LINES = 150


def test_every_environment_of_the_catalog_has_a_row_with_its_size() -> None:
    page = (ROOT / "docs" / "envs" / "README.md").read_text(encoding="utf-8")
    shown = {
        name: int(lines) for name, lines in re.findall(r"^\| `([\w-]+)` \|.*\| (\d+) \|$", page, re.MULTILINE)
    }
    ours = [
        point.name for point in entry_points(group=GROUP) if point.value.startswith("palaestra.envs.catalog.")
    ]
    assert shown == {name: len(inspect.getsource(load_env(name)).splitlines()) for name in ours}
    assert max(shown.values()) <= MAX_LINES
