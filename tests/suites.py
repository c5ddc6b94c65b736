"""What the tests of `Suite` share: workspaces in a text file, and one call to grade."""

import re
from pathlib import Path
from typing import Any

from support import run_async

from palaestra.envs import AssistantMessage, Episode, Failed, Scored, StopReason, Task, Ungraded, Workspace
from palaestra.envs.graders import Suite, grade_episode


def files_in(text: str) -> dict[str, str]:
    """Files by path, out of a text with a line "# file: path" before each."""
    parts = re.split(r"^# file: (\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def exploits_in(path: Path) -> dict[str, dict[str, str]]:
    """Workspaces by name: solution.py comes first, other files behind lines that name them."""
    parts = re.split(r"^# -- (\w+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = zip(parts[1::2], parts[2::2], strict=True)
    return {name: files_in(f"# file: solution.py\n{text}") for name, text in named}


def grade(
    tests: dict[str, Any], files: dict[str, str], *ids: str, floor: float = 0.0, **options: Any
) -> Scored | Ungraded | Failed:
    contents = tuple(sorted((name, text.encode()) for name, text in files.items()))
    episode = Episode(
        task_id="t",
        seed=0,
        messages=(AssistantMessage("Done."),),
        stop=StopReason.DONE,
        workspace=Workspace(files=contents),
    )
    task = Task(id="t", reference=list(ids) or None, private={"tests": tests})
    return run_async(grade_episode(Suite(**options), task, episode, reward_range=(floor, 1.0)))


def scored(tests: dict[str, Any], files: dict[str, str], *ids: str, **options: Any) -> Scored:
    outcome = grade(tests, files, *ids, **options)
    assert isinstance(outcome, Scored), outcome
    return outcome
