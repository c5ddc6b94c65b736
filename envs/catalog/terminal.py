"""Chores in a terminal: bash in a sandbox, judged by a script in another one. Plays Harbor's folders too."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from ...sandboxes import SandboxSpec
from ..adapters.harbor import Folder, TestScript, make_task, moved, read_folder
from ..budget import Budget
from ..env import Observation
from ..graders import AnyGrader
from ..message import SystemMessage
from ..policy import Policy
from ..sandboxed import SandboxToolEnv, transcript
from ..scripted import ScriptedPolicy, call_tool
from ..task import Task, TaskSet
from ..tools import tool

INSTRUCTIONS = "Do the task with the bash tool. Say done when it is finished."
NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hal", "ida", "kit", "lea", "max", "otto", "quin")
Chore = tuple[str, dict[str, bytes], str, str]
"""(instruction, files at the start, a command that tests it, a command that does it)."""


class Terminal(SandboxToolEnv[Task]):
    """1 when the task's test passes on the files that were left."""

    grader: AnyGrader | None = TestScript()
    budget = Budget(max_turns=16)
    sandbox: ClassVar[SandboxSpec] = SandboxSpec(memory_mb=256)
    max_workspace_bytes: ClassVar[int] = 16 << 20

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Put the task's files into the sandbox."""
        folder: Folder = task.private["folder"]
        box = await self.box()
        for path, data in folder.files.items():
            await box.write(path, data)
        return await super().reset(task, seed=seed)

    @tool(timeout_s=None)
    async def bash(self, command: str) -> str:
        """Run a shell command in the task's directory; files stay from call to call."""
        return transcript(await self.run(["bash", "-c", command], timeout_s=30.0)) or "[no output]"

    @classmethod
    def tasks(
        cls, *, folder: str | None = None, size: int = 200, seed: int = 0, instructions: str = INSTRUCTIONS
    ) -> TaskSet:
        """The task folders in `folder`, or `size` generated chores."""
        if folder is not None:
            found = [
                read_folder(path) for path in sorted(path for path in Path(folder).iterdir() if path.is_dir())
            ]
        else:
            dice = random.Random(seed)
            found = [_task(f"{seed}-{number}", CHORES[number % len(CHORES)](dice)) for number in range(size)]
        system = (SystemMessage(instructions),) if instructions else ()
        return TaskSet(
            Task(id=task.id, messages=(*system, *task.messages), private=task.private) for task in found
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Runs the task's solution."""
        folder: Folder = task.private["folder"]
        if "solve.sh" not in folder.solution:
            raise ValueError(f"task {task.id!r} has no solution/solve.sh")
        script = moved(folder.solution["solve.sh"], {"/app": "."}).decode()
        return ScriptedPolicy([call_tool("bash", command=script), "done"])


def _task(id: str, chore: Chore) -> Task:
    wish, files, test, solution = chore
    script = f"cd /app && {{ {test}; }} && reward=1 || reward=0\necho $reward > /logs/verifier/reward.txt\n"
    folder = Folder(files=files, tests={"test.sh": script.encode()}, solution={"solve.sh": solution.encode()})
    return make_task(id, wish, folder)


def _table(dice: random.Random) -> tuple[list[str], str, dict[str, bytes]]:
    """(rows, the file's name, the file)."""
    name = f"scores-{dice.randrange(10_000)}.csv"
    rows = [f"{name},{dice.choice(['red', 'green', 'blue'])},{dice.randrange(1, 100)}" for name in NAMES]
    dice.shuffle(rows)
    return rows, name, {name: "\n".join(["name,team,points", *rows, ""]).encode()}


def _sum(dice: random.Random) -> Chore:
    rows, name, files = _table(dice)
    team = dice.choice([row.split(",")[1] for row in rows])
    total = sum(int(row.split(",")[2]) for row in rows if row.split(",")[1] == team)
    wish = f"Write the sum of the points of team {team} in {name}, only the number, to sum.txt."
    solution = f"awk -F, '$2 == \"{team}\" {{n += $3}} END {{print n}}' {name} > sum.txt"
    return wish, files, f'[ "$(tr -d "[:space:]" < sum.txt)" = {total} ]', solution


def _sort(dice: random.Random) -> Chore:
    rows, name, files = _table(dice)
    best = sorted(rows, key=lambda row: (-int(row.split(",")[2]), row))[:3]
    names = "\\n".join(row.split(",")[0] for row in best)
    wish = f"Write the names of the three with the most points in {name}, one a line, to best.txt. "
    solution = f"tail -n +2 {name} | sort -t, -k3,3nr -k1,1 | head -n 3 | cut -d, -f1 > best.txt"
    return (
        wish + "The best comes first; equals go by name.",
        files,
        f"diff <(printf '{names}\\n') best.txt",
        solution,
    )


def _rename(dice: random.Random) -> Chore:
    old, new = dice.sample(["txt", "log", "csv", "bak", "tmp"], 2)
    box = f"box-{dice.randrange(10_000)}"
    contents = {f"{box}/{name}": str(dice.random()) for name in dice.sample(NAMES, 5)}
    files = {f"{path}.{old}": f"{text}\n".encode() for path, text in contents.items()}
    test = " && ".join(
        f'[ "$(cat {path}.{new})" = {text} ] && [ ! -e {path}.{old} ]' for path, text in contents.items()
    )
    solution = f'for f in {box}/*.{old}; do mv "$f" "${{f%.{old}}}.{new}"; done'
    wish = f"In the folder {box}, rename every file *.{old} to *.{new}."
    return wish, {**files, f"{box}/README": b"Leave me.\n"}, test, solution


CHORES: tuple[Callable[[random.Random], Chore], ...] = (_sum, _sort, _rename)
