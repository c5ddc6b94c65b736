"""Test suites in the manner of pytest, for a policy that would rather fool them than pass them."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from ...sandboxes import Sandbox, SandboxFileError, SandboxSpec, open_sandbox
from ..episode import Episode, Workspace
from ..errors import Tampered
from ..outcome import Score
from ..task import Task
from ._halves import SILENT, Halves, Verdict
from .suite_text import SuiteText, read_suite

_CONTROL = "test_control.py::test_control"
_CONTROL_SUITE = {"test_control.py": "def test_control(): assert 1 + 1 == 2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """1 when the episode's workspace passes every test of the task's suite.

    >>> tests = {"test_double.py": "from double import f\\ndef test_two(): assert f(2) == 4"}
    >>> task = Task(id="double", private={"tests": tests})
    >>> score = await Suite().grade(task, episode, Workspace(files=(("double.py", b"f = lambda x: 2 * x"),)))
    >>> score.reward
    1.0

    Two fresh sandboxes: one has the suite, the other the workspace. What a test imports from the program is a
    stand-in, its calls cross the wall, and plain values come back; the assertions run where no line of the
    program does, in a process of its own for each test. A pass needs a verdict for every id: what is missing,
    skipped, expected to fail or cannot be imported has failed. Forged answers raise `Tampered`.

    What a test asks, the program answers: `assert check(x)` is won by `return True`, and two objects of its
    own class are equal when it says so, so compare what they hold. What a suite cannot have gives no grade
    (`eval`, plugins) or fails its test (arrays, a class that derives from the program's): see CONTRIBUTING.
    """

    tests: Mapping[str, str | bytes] | None = None
    """The suite's files by relative path, text or bytes. None: those in `Task.private["tests"]`."""
    timeout_s: float = 30.0
    """Of all tests together; the start of the sandboxes does not count. The time limit of grading, 60 s by
    default, must be over it."""
    partial_credit: bool = False
    """The reward is the part of the tests that passed. False: all or nothing."""
    program: tuple[str, ...] | None = None
    """Top-level modules that the suite may import from the workspace. None: whatever neither the suite nor
    the sandbox's Python has; a suite that needs packages which the sandbox may lack should name them."""
    allow_shared: bool = False
    """Grade in the episode's own sandbox. A grader has no way to it, so True is an error."""
    sandbox: SandboxSpec = field(default_factory=SandboxSpec)
    """Of each of the two; its backend needs `Capabilities.jobs`."""

    def __post_init__(self) -> None:
        if self.allow_shared:
            raise ValueError(
                "Suite.allow_shared=True: a grader gets the task, the episode and the workspace's files, and "
                "not the episode's sandbox; leave it False, and the files are graded in fresh sandboxes"
            )

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `Tampered` for forged answers; `ValueError` for a suite that cannot be used.

        `Task.reference` lists the ids that count, as in "tests/test_a.py::test_x"; one without brackets means
        all its parameters. None: every test that the suite's text shows, and those that its files turn out
        to have.
        """
        suite = read_suite(task, self.tests)
        ids = suite.required(task.reference)
        try:
            verdicts = await self._run(suite, ids, workspace, find_more=task.reference is None)
        except SandboxFileError as error:
            return Score(reward=0.0, evidence=f"the workspace has no place in a sandbox: {error}")
        if all(verdict.kind == SILENT for verdict in verdicts.values()):
            await self._control()
        for id, verdict in verdicts.items():
            if verdict.kind == "forged":
                raise Tampered(f"{id}: the program sent what its harness did not write: {verdict.text}")
        failures = [id for id, verdict in verdicts.items() if verdict.kind != "passed"]
        part = 1.0 - len(failures) / len(verdicts)
        evidence = f"{len(verdicts) - len(failures)} of {len(verdicts)} tests passed"
        if failures:
            evidence += f"; {failures[0]}: {verdicts[failures[0]].kind}: {verdicts[failures[0]].text}"
        reward = part if self.partial_credit else float(not failures)
        return Score(reward=reward, components={"passed": part}, evidence=evidence)

    async def _run(
        self, suite: SuiteText, ids: tuple[str, ...], workspace: Workspace | None, *, find_more: bool
    ) -> dict[str, Verdict]:
        """The verdicts by id. `find_more`: tests of the same files that only running them shows count too."""
        unseen = Verdict(text="no time was left")
        verdicts = dict.fromkeys(ids, unseen)
        waiting, left = list(ids), self.timeout_s
        async with AsyncExitStack() as stack:
            suite_box, program_box = await self._boxes(stack, suite, workspace)
            while waiting and left > 0:
                async with Halves.started(suite_box, program_box, self._setting(suite)) as halves:
                    is_clean = True
                    while waiting and left > 0 and is_clean:
                        id = waiting.pop(0)
                        verdict, took = await _timed(halves, id, left)
                        verdicts[id], left, is_clean = verdict, left - took, verdict.is_clean
                        found = [more for more in verdict.found if find_more and more not in verdicts]
                        verdicts |= dict.fromkeys(found, unseen)
                        waiting += found
        return verdicts

    async def _boxes(
        self, stack: AsyncExitStack, suite: SuiteText, workspace: Workspace | None
    ) -> tuple[Sandbox, Sandbox]:
        """One for the suite and one for the program, with their files."""
        suite_box = await stack.enter_async_context(open_sandbox(self.sandbox))
        program_box = await stack.enter_async_context(open_sandbox(self.sandbox))
        for name, content in workspace.files if workspace else ():
            if name in suite.sources or name in suite.data:
                continue  # the suite's own is the host's
            await program_box.write(name, content)
            if suite.touches_files:
                await suite_box.write(name, content)
        for name, content in suite.data.items():
            await suite_box.write(name, content)
        return suite_box, program_box

    def _setting(self, suite: SuiteText) -> dict[str, object]:
        return {
            "sources": dict(suite.sources),
            "data": list(suite.data),
            "imports": list(suite.imports),
            "has_files": suite.touches_files,
            "program": None if self.program is None else list(self.program),
        }

    async def _control(self) -> None:
        """No verdict on any test: the program's doing, unless a suite without a program fares no better."""
        grader = replace(self, tests=_CONTROL_SUITE)
        suite = read_suite(Task(id="control"), grader.tests)
        verdict = (await grader._run(suite, (_CONTROL,), None, find_more=False))[_CONTROL]
        if verdict.kind != "passed":
            raise RuntimeError(
                f"no test runs in this sandbox, has it python3? {self.sandbox} {verdict.kind}: {verdict.text}"
            )


async def _timed(halves: Halves, id: str, limit_s: float) -> tuple[Verdict, float]:
    """The verdict on a test, and the seconds that it took."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(limit_s):
            verdict = await halves.verdict(id)
    except TimeoutError:
        verdict = Verdict(text="stopped at the time limit")
    return verdict, time.monotonic() - started
