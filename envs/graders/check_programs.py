"""Programs that attack a grader of programs; before them one that shows whether it contains what it runs."""

import ast
import asyncio
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..check import Check
from ..outcome import Outcome, Scored
from ..task import Task
from .asserts import parse_asserts
from .probes import exploits
from .unit_tests import last_block

Try = Callable[[Task, str], Awaitable[Outcome]]
"""What a program gets as the answer to a task."""
_CONSTANTS = ("0", "True", "None", "''")


def defined(answer: str) -> list[str]:
    """The functions that the program in an answer defines; none where it is no program.

    >>> defined("def double(x):\\n    return 2 * x")
    ['double']
    """
    try:
        body = ast.parse(last_block(answer)).body
    except (SyntaxError, ValueError, RecursionError):
        return []
    return [part.name for part in body if isinstance(part, ast.FunctionDef)]


def hollow(answer: str) -> str:
    """The program with functions that do nothing.

    >>> hollow("def double(x):\\n    return 2 * x")
    '```python\\ndef double(*_, **__): pass\\n```'
    """
    lines = "\n".join(f"def {name}(*_, **__): pass" for name in defined(answer))
    return f"```python\n{lines}\n```"


async def check_programs(attempt: Try, task: Task, gold: str) -> list[Check]:
    """The rows "containment" and "exploits". The second only after the first: some of these programs kill.

    Where the reference is asserts, the exploits are set to find a value that they cannot compute. Elsewhere
    they take the names of the gold program's functions. They must earn no more than constants do.
    """
    if await _gets_out(attempt, task, gold):
        detail = (
            "the grader runs programs on this machine, where they write files, and may kill: "
            "grade with UnitTests, or run the program in open_sandbox()"
        )
        return [Check(name="containment", passed=False, detail=detail)]
    contained = Check(name="containment", passed=True, detail="a program reached no file of this machine")
    target, names = _target(task, gold)
    programs = {name: _bound(program, names) for name, program in exploits().items()}
    constants = [_bound(f"f = lambda *_: {value}", names) for value in _CONSTANTS]
    bases = await asyncio.gather(*(attempt(target, program) for program in constants))
    outcomes = await asyncio.gather(*(attempt(target, program) for program in programs.values()))
    base = max((each.reward for each in bases if isinstance(each, Scored)), default=None)
    if base is None:
        return [contained, Check(name="exploits", passed=False, detail=f"a constant got {bases[0]}"[:400])]
    flaws = [
        f"{name}: {outcome}"
        for name, outcome in zip(programs, outcomes, strict=True)
        if not isinstance(outcome, Scored) or outcome.reward > base
    ]
    detail = f"{len(flaws)} worked; {flaws[0]:.400}" if flaws else f"{len(programs)} programs earn nothing"
    return [contained, Check(name="exploits", passed=not flaws, detail=detail)]


async def _gets_out(attempt: Try, task: Task, gold: str) -> bool:
    """Whether a program under this grader can make a file here."""
    with tempfile.TemporaryDirectory(prefix="palaestra-check-") as folder:
        proof = Path(folder) / "reached"
        reach = f"try: open({str(proof)!r}, 'w').close()\nexcept OSError: pass\n"
        await attempt(task, reach + last_block(gold))
        return proof.exists()


def _target(task: Task, gold: str) -> tuple[Task, Sequence[str]]:
    """(the task that is attacked, the functions that its tests call)."""
    try:
        parse_asserts(task.reference)
    except ValueError:
        return task, defined(gold)
    secret = secrets.randbelow(1 << 60) + (1 << 62)  # of 19 digits, which the searches look for
    tests = [f"assert f(1) == {secret}", f"assert f(2) == [{secret}, 'x']"]
    private = {name: value for name, value in task.private.items() if name != "setup"}
    return replace(task, reference=tests, private=private), ["f"]


def _bound(program: str, names: Sequence[str]) -> str:
    """An exploit of `f`, under the names that the tests call."""
    lines = "".join(f"if 'f' in globals(): {name} = f\n" for name in names if name != "f")
    return f"{program.rstrip()}\n{lines}"
