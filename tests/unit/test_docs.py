"""What README, ARCHITECTURE, CONTRIBUTING and docs/ say, held against the code: blocks run, paths exist."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from support import ROOT

from palaestra.cli.main import app
from palaestra.envs import Env, ToolEnv, env_names, load_env
from palaestra.trainer.arena import load_arena
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import load_recipe
from palaestra.trainer.schedule import usual_rate

PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
OTHER_COMMANDS = {"cd", "git", "export", "pip", "torchrun"}
"""What a shell block may hold beside our own commands."""
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.yaml"))
WIDTH = 2560
"""Of the layers of my-model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    line: int
    """Of its first line of content; the page's first line is 1."""
    text: str


def blocks(page: Path, language: str) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if found[1] == language:
            line = text.count("\n", 0, found.start(2)) + 1
            yield Block(language=language, line=line, text=found[2])


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    kinds = re.findall(r"^```(.*)\n(?:.*\n)*?```$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(kinds) <= {"", "python", "bash", "yaml"}
    for block in blocks(page, ""):
        assert re.search("──", block.text), f"line {block.line}: only a picture goes without a language"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    """As a program of its own, each block on the lines that it has in the page, where a traceback points."""
    lines: list[str] = []
    for block in blocks(page, "python"):
        lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    script = tmp_path / f"{page.stem}.py"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_commands_of_a_page_exist(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder in which all is as in a checkout, but that no run has left anything there."""
    monkeypatch.chdir(tmp_path)
    for path in ROOT.iterdir():
        if path.name != "runs":
            (tmp_path / path.name).symlink_to(path)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page, "bash"):
        for line in block.text.splitlines():
            match shlex.split(line, comments=True):
                case ["palaestra", *words]:
                    check_command(words)
                case ["make", target]:
                    assert target in targets, line
                case ["python", script, *_]:
                    assert Path(script).is_file(), line
                case [command, *_]:
                    assert command in OTHER_COMMANDS or os.access(command, os.X_OK), line
                case _:
                    pass


@pytest.fixture
def beside_my_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with the model that pages and examples call my-model."""
    monkeypatch.chdir(tmp_path)
    config = {"hidden_size": WIDTH, "max_position_embeddings": 32768}
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def check_command(words: list[str]) -> Recipe | None:
    """Parse a command line as `palaestra` does, without running it, and load what it names.

    A run that it would begin has a folder after that, for a later command to go on from.
    """
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(command.name, list(words)) as context:
        given: dict[str, Any] = context.params
    if command.callback.__name__ == "check_environment":
        load_env(given["name"])
    if "recipe" not in given:
        return None
    overrides: list[str] = given["overrides"] or []
    if (start := given.get("start")) is not None:  # --continue
        overrides += ["model.path=null", "model.tiny=null", f"model.start={start}"]
    recipe = load_recipe(given["recipe"], overrides)
    if command.name == "train" and not given["dry_run"]:
        recipe.folder.mkdir(parents=True, exist_ok=True)
    return recipe


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_recipes_of_a_page_load(page: Path, beside_my_model: Path) -> None:
    for block in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block.text), dict), f"line {block.line}"
        path = beside_my_model / "recipe.yaml"
        path.write_text(block.text, encoding="utf-8")
        check_tasks(load_recipe(path), f"line {block.line}")


def check_tasks(recipe: Recipe, where: str) -> None:
    """Of an environment of ours: a tiny model has an oracle to learn from and room for the tools, and some
    tasks are left to train on, where they come from no file."""
    if recipe.env is None or not (recipe.env.id in env_names() or recipe.env.id.startswith("palaestra.")):
        return
    env: type[Env[Any]] = load_env(recipe.env.id)
    tiny = recipe.model.tiny
    if tiny is not None:
        has_oracle = any("oracle" in vars(base) for base in env.mro() if base is not Env)
        assert has_oracle, f"{where}: name a model, nobody plays for a tiny one"
        if issubclass(env, ToolEnv) and recipe.model.describe_tools:
            words = [word for tool in env.offered.values() for word in str(tool.spec).split()]
            assert len(words) < tiny.max_context, f"{where}: the tools fill the tiny model's context"
    if recipe.env.id not in env_names() or "path" in recipe.env.tasks:
        return
    try:
        arena = load_arena(recipe)
    except ModuleNotFoundError:  # of an extra that is not here
        return
    assert arena.train, f"{where}: no task is left to train on"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_commands_in_the_head_of_an_example_load(name: str, beside_my_model: Path) -> None:
    """Those for a model of one's own at a rate that it takes, beside a vLLM that leaves room on the GPU, and
    without a checkpoint at every other step."""
    (beside_my_model / "examples").symlink_to(ROOT / "examples")
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    head = "\n".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    commands = re.findall(r"\bpalaestra ((?:train|eval) .*)", head.replace("\\\n", " "))
    assert commands
    for command in commands:
        recipe = check_command(shlex.split(command))
        assert recipe is not None
        if recipe.model.path is None:
            continue
        usual = usual_rate(WIDTH, is_adapter=recipe.lora is not None)
        assert recipe.optimizer.lr is None or recipe.optimizer.lr <= 3 * usual
        assert recipe.engine.kind == "local" or "--gpu-memory-utilization" in recipe.engine.args
        assert recipe.grpo.steps <= 20 * recipe.checkpoint.every


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_and_test_that_a_page_names_exists(page: Path) -> None:
    spans = re.findall(r"`([\w.][\w./-]*)`", prose(page))
    assert [span for span in spans if is_path(span) and not (ROOT / span).exists()] == []
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [span for span in spans if re.fullmatch(r"test_\w+", span) and f"def {span}(" not in tests] == []


def is_path(span: str) -> bool:
    """`trainer/loop.py`, `Makefile.am`; not what a run leaves behind, nor the name of an environment."""
    if span.startswith(("runs/", "sft/", "palaestra/")):
        return False
    return "/" in span or Path(span).suffix in (".py", ".md", ".toml", ".yaml", ".txt")


def test_the_readme_is_short_and_shows_the_example_as_it_is() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 150
    example = (ROOT / "examples" / "single_turn_env.py").read_text()
    assert example in [block.text for block in blocks(readme, "python")]
    assert len(example.splitlines()) <= 12


def test_the_tree_in_the_readme_is_the_one_on_disk() -> None:
    (tree,) = (block.text for block in blocks(ROOT / "README.md", "") if "├── sandboxes/" in block.text)
    shown: dict[str, set[str]] = {"": set()}
    folder = ""
    for line in tree.splitlines():
        drawn, text = re.fullmatch(r"((?:│   )?[├└]── )(.*)", line).groups()  # type: ignore[union-attr]  # a line that is none fails
        name, *others = text.split()
        if len(drawn) > 4:
            shown[folder].add(name)
        elif name.endswith("/"):
            folder = name
            shown[""].add(name)
            shown[name] = set()
        else:
            shown[""] |= {name, *others}
    assert shown[""] == on_disk(ROOT)
    for name in ("sandboxes/", "envs/", "agents/", "trainer/", "cli/", "tests/"):
        assert shown[name] == {found for found in on_disk(ROOT / name) if found.endswith("/")}, name


def on_disk(folder: Path) -> set[str]:
    """What git would see in a folder, hidden files aside; folders end with "/"."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    found: set[str] = set()
    for path in folder.iterdir():
        if path.name.startswith(".") or any(fnmatch(path.name, pattern) for pattern in ignored):
            continue
        if path.is_file():
            found.add(path.name)
        elif any(inner.is_file() for inner in path.rglob("*")):
            found.add(f"{path.name}/")
    return found
