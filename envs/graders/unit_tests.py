"""Unit tests for programs of a policy that would rather fool the grader than solve the task."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...sandboxes import ExecResult, SandboxSpec, open_sandbox
from ..episode import Episode, Workspace
from ..errors import BadTask, Tampered
from ..outcome import Score
from ..task import Task
from ._candidate import ANSWERED, FORGED, frame
from .asserts import Case, imports_for, parse_asserts

ANSWER_BYTES = 1 << 22
"""The answers of one program, all together; what goes beyond is wrong."""
_LINE_BYTES = 300
"""Of a report's line, beside an answer."""
_GRACE_S = 5.0
"""What the harness may take for itself."""
_HARNESS = Path(__file__).with_name("_candidate.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the harness says of one test."""

    kind: str = "gave"
    text: str = "no answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """How a program did on one test."""

    case: Case
    verdict: Verdict

    @property
    def passed(self) -> bool:
        return self.verdict.kind == ANSWERED and self.verdict.text == self.case.expected

    @property
    def told(self) -> str:
        """What happened, without what was expected: "double(2): answered 5"."""
        return f"{self.case.call:.100}: {self.verdict.kind} {self.verdict.text:.100}"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitTests:
    """1 when the program passes every test; tests are asserts in `Task.reference`.

    >>> task = Task(id="double", reference=["assert double(2) == 4"])
    >>> score = await UnitTests().grade(task, episode, None)  # it said: def double(x): return 2 * x
    >>> score.reward
    1.0

    The program runs in a sandbox, in a fresh process for each test: no test can answer for another, and one
    that hangs or dies takes none with it but by the clock. Expected values never enter that sandbox.
    Answers come out as type-tagged JSON and are compared here: 1 equals 1.0 but not True, a list is no tuple,
    a subclass is nothing but itself (defaultdict, Counter and OrderedDict are dicts). No answer is a failed
    test. Forged ones raise `Tampered`, which scores the floor. Code in `Task.private["setup"]` runs after the
    program, before each test, in the same process: it is no secret.
    """

    file: str | None = None
    """The file that holds the program; None: the last message's last fenced block, or all of it."""
    timeout_s: float = 10.0
    """Of all tests of a program together. The time limit of grading, 60 s by default, must be over it."""
    partial_credit: bool = False
    """The reward is the part of the tests that passed. False: all or nothing."""
    sandbox: SandboxSpec = field(default_factory=SandboxSpec)

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `Tampered` for forged answers; `ValueError` for a task whose tests cannot be used."""
        results = await self.run(task, self._program(episode, workspace))
        failures = [result for result in results if not result.passed]
        part = 1.0 - len(failures) / len(results)
        evidence = f"{len(results) - len(failures)} of {len(results)} tests passed"
        if failures:
            evidence += f"; {failures[0].told}, expected {failures[0].case.expected:.100}"
        reward = part if self.partial_credit else float(not failures)
        return Score(reward=reward, components={"passed": part}, evidence=evidence)

    async def run(self, task: Task, program: bytes) -> list[CaseResult]:
        """How a program does on each of the task's tests. Raises as `grade` does."""
        cases = [await self._known(case) for case in parse_asserts(task.reference)]
        setup = str(task.private.get("setup", "")).encode()
        verdicts = await self._run(program, setup, [case.call for case in cases])
        if not verdicts:
            await self._control()
        for index, verdict in verdicts.items():
            if verdict.kind == FORGED:
                call = cases[index].call
                raise Tampered(f"the answer to {call:.100} was not written by its test: {verdict.text}")
        return [
            CaseResult(case=case, verdict=verdicts.get(index, Verdict())) for index, case in enumerate(cases)
        ]

    def _program(self, episode: Episode, workspace: Workspace | None) -> bytes:
        if self.file is not None:
            return dict(workspace.files).get(self.file, b"") if workspace else b""
        text = episode.answers[-1].content if episode.answers else ""
        return last_block(text).encode(errors="replace")

    async def _known(self, case: Case) -> Case:
        """With its expected value; one that is no literal is worked out in a sandbox of its own."""
        if case.expected:
            return case
        verdicts = await self._run(imports_for(case.source).encode(), b"", [case.source])
        verdict = verdicts.get(0, Verdict())
        if verdict.kind != ANSWERED:
            raise BadTask(
                f"the expected value {case.source!r:.200} has no plain value: {verdict.kind} {verdict.text}; "
                "it may use literals, builtins and the standard library, not the program's own names"
            )
        return replace(case, expected=verdict.text)

    async def _run(self, program: bytes, setup: bytes, calls: Sequence[str]) -> dict[int, Verdict]:
        nonce = secrets.token_hex(16)
        words = [f"{self.timeout_s}".encode(), b"%d" % ANSWER_BYTES, program, setup, b"%d" % len(calls)]
        stdin = frame([*words, *(call.encode() for call in calls), nonce.encode()])
        async with open_sandbox(self.sandbox) as box:
            result = await box.run(
                ["python3", "-c", _HARNESS.read_text()],
                stdin=stdin,
                timeout_s=self.timeout_s + _GRACE_S,
                output_limit=ANSWER_BYTES + _LINE_BYTES * len(calls),
            )
        return _read(result, nonce, len(calls))

    async def _control(self) -> None:
        """Nothing came back: the program's doing, unless a program that does nothing fares no better."""
        if (await self._run(b"", b"", ["1"])).get(0) != Verdict(kind=ANSWERED, text="1"):
            raise RuntimeError(f"no test runs in this sandbox, has it python3? {self.sandbox}")


def _read(result: ExecResult, nonce: str, num_tests: int) -> dict[int, Verdict]:
    """The verdicts by test. The harness writes one line a test; whatever else is there, it did not write."""
    if result.omitted_stdout:
        raise Tampered(f"{result.omitted_stdout} bytes more than all answers on the grader's descriptor")
    verdicts: dict[int, Verdict] = {}
    for line in result.stdout.decode(errors="replace").split("\n")[:-1]:
        mark, index, kind, text = (*line.split(" ", 3), "", "", "")[:4]
        if mark != nonce or index not in map(str, range(num_tests)) or int(index) in verdicts:
            raise Tampered(f"a line on the grader's descriptor that the harness did not write: {line!r:.200}")
        verdicts[int(index)] = Verdict(kind=kind, text=text)
    return verdicts


def last_block(text: str) -> str:
    """The last fenced block that is closed; without one the last that is open; without any, the text.

    >>> last_block("Here it is:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1'
    """
    found: list[str] | None = None
    block: list[str] | None = None
    for line in text.split("\n"):
        if block is None and line.lstrip().startswith("```"):
            block = []
        elif block is not None and line.strip() == "```":
            found, block = block, None
        elif block is not None:
            block.append(line)
    lines = found if found is not None else block
    return text if lines is None else "\n".join(lines)
