"""Does this reward pay for what it should, and for nothing else? It is tried with answers of every kind."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..check import Check
from ..episode import Episode, StopReason
from ..errors import no_exit
from ..message import AssistantMessage
from ..outcome import Outcome, Scored, Ungraded
from ..task import Task
from .check_programs import check_programs, defined, hollow
from .grading import Grader, grade_episode
from .probes import HOSTILE, INJECTIONS, NO_ANSWER, NULLS

REPEATS = 5
NUM_ATTACKED = 3
"""Tasks that are tried with every attack."""
NUM_AT_ONCE = 8
_LAST_NUMBER = re.compile(r"\d+(?!.*\d)", re.DOTALL)
_SILENT = ("empty", "space", "colon", "dots", "fence")
"""Of `NULLS`: a reward that reads numbers or text takes the others for answers, wrong ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardCase:
    """A task, and a play of it that deserves the maximum."""

    task: Task
    gold: Episode

    @property
    def answer(self) -> str:
        return self.gold.answers[-1].content if self.gold.answers else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tried:
    """One answer, and what it got."""

    case: RewardCase
    name: str
    outcome: Outcome
    seconds: float


async def check_reward(
    grader: Grader,
    cases: Sequence[RewardCase],
    *,
    reward_range: tuple[float, float] = (0.0, 1.0),
    max_grade_s: float = 10.0,
    on_graded: Callable[[], None] = lambda: None,
) -> tuple[Check, ...]:
    """Rows of a report. `on_graded` is called after each answer.

    Programs that attack a grader are tried where the gold answers are programs, and then only if the grader
    runs none on this machine.
    """
    if not cases:
        raise ValueError("there is no task to try the reward on")
    checker = _Checker(grader, cases, reward_range, max_grade_s, on_graded)
    rows = [
        checker.judge("gold", await checker.gold(), checker.is_best),
        checker.judge("wrong", await checker.wrong(), checker.is_less),
        checker.judge("empty", await checker.empty(), checker.is_floor),
        checker.judge("spam", await checker.spam(), checker.is_less),
        checker.judge("injected", await checker.injected(), checker.is_less),
        checker.judge("hostile", await checker.hostile(), checker.is_less),
        await checker.determinism(),
        checker.range(),
        checker.time(),
    ]
    if checker.is_code:
        rows += await check_programs(checker.program, cases[0].task, cases[0].answer)
    return tuple(rows)


class _Checker:
    def __init__(
        self,
        grader: Grader,
        cases: Sequence[RewardCase],
        reward_range: tuple[float, float],
        max_grade_s: float,
        on_graded: Callable[[], None],
    ) -> None:
        self.grader, self.cases, self.reward_range = grader, cases, reward_range
        self.max_grade_s, self.on_graded = max_grade_s, on_graded
        self.is_code = all(defined(case.answer) for case in cases)
        self.tried: list[_Tried] = []
        self._slots = asyncio.Semaphore(NUM_AT_ONCE)

    async def gold(self) -> list[_Tried]:
        return await self._try_all([(case, "gold", case.gold) for case in self.cases])

    async def wrong(self) -> list[_Tried]:
        """Another task's answer, the own one with another number or an empty body, and none."""
        answers: list[tuple[RewardCase, str, Episode]] = []
        for case in self.cases:
            texts = {"no answer": NO_ANSWER}
            if (other := self._other(case)) is not None:
                texts["another task's answer"] = other.answer
            if self.is_code:
                texts["an empty body"] = hollow(case.answer)
            elif (changed := _changed(case.answer)) != case.answer:
                texts["a changed number"] = changed
            answers += self._said(case, texts)
        return await self._try_all(answers)

    async def empty(self) -> list[_Tried]:
        texts = {name: NULLS[name] for name in _SILENT}
        return await self._try_all([each for case in self.cases for each in self._said(case, texts)])

    async def spam(self) -> list[_Tried]:
        """Many answers in one, in the hope that one counts."""
        answers: list[tuple[RewardCase, str, Episode]] = []
        for case in self.cases[:NUM_ATTACKED]:
            texts = {
                "1000 numbers": " ".join(map(str, range(1000))) + " or none of them",
                "one word 20,000 times": "answer " * 20_000,
                "the question": case.task.prompt_text,
            }
            if (other := self._other(case)) is not None and not self.is_code:
                all_golds = [each.answer for each in self.cases] + [other.answer]
                texts["every task's answer"] = "\n".join(all_golds)
            answers += self._said(case, texts)
        return await self._try_all(answers)

    async def injected(self) -> list[_Tried]:
        return await self._attacks({name: f"{NO_ANSWER}\n\n{text}" for name, text in INJECTIONS.items()})

    async def hostile(self) -> list[_Tried]:
        return await self._attacks(HOSTILE)

    async def determinism(self) -> Check:
        chosen = self.cases[:NUM_ATTACKED]
        wrong = [episode for case in chosen for _, _, episode in self._said(case, {"wrong": NO_ANSWER})]
        both = [*zip(chosen, wrong, strict=True), *((case, case.gold) for case in chosen)]
        for case, episode in both:
            found = await self._try_all([(case, "again", episode)] * REPEATS)
            outcomes = [each.outcome for each in found]
            if None in (rewards := {_number(outcome) for outcome in outcomes}) or len(rewards) > 1:
                seen = sorted({_told(outcome) for outcome in outcomes})
                flaw = f"task {case.task.id!r}: one answer got {' and '.join(seen)}"
                return _row("determinism", [flaw], "")
        return _row("determinism", [], f"{REPEATS} equal grades of {len(both)} answers")

    def range(self) -> Check:
        """Of all that was tried; `grade_episode` makes `Ungraded` of a reward outside."""
        outside = [
            f"task {each.case.task.id!r}, {each.name}: {each.outcome.reason:.200}"
            for each in self.tried
            if isinstance(each.outcome, Ungraded) and each.outcome.reason.startswith("range: ")
        ]
        rewards = [each.outcome.reward for each in self.tried if isinstance(each.outcome, Scored)]
        if not rewards:
            return _row("range", ["no answer got a number"], "")
        return _row("range", outside, f"{min(rewards):g} to {max(rewards):g}, within {self.reward_range}")

    def time(self) -> Check:
        slowest = max(self.tried, key=lambda each: each.seconds)
        detail = f"at most {slowest.seconds:.2f} s a grade; {self.max_grade_s:g} are allowed"
        where = f"task {slowest.case.task.id!r}, {slowest.name}"
        return _row("time", [] if slowest.seconds <= self.max_grade_s else [f"{where}: {detail}"], detail)

    def judge(self, name: str, tried: Sequence[_Tried], is_right: Callable[[_Tried], bool]) -> Check:
        flaws = [
            f"task {each.case.task.id!r}, {each.name}: {_told(each.outcome)}"
            for each in tried
            if not is_right(each)
        ]
        return _row(name, flaws, f"{len(tried)} answers got what they deserve")

    def is_best(self, each: _Tried) -> bool:
        reward = _number(each.outcome)
        return reward is not None and math.isclose(reward, self.reward_range[1], abs_tol=1e-9)

    def is_floor(self, each: _Tried) -> bool:
        reward = _number(each.outcome)
        return reward is not None and math.isclose(reward, self.reward_range[0], abs_tol=1e-9)

    def is_less(self, each: _Tried) -> bool:
        """A number, and less than the maximum: what has none escapes its grade."""
        return _number(each.outcome) is not None and not self.is_best(each)

    async def program(self, task: Task, program: str) -> Outcome:
        """What it gets as the answer to a task."""
        case = RewardCase(task=task, gold=self.cases[0].gold)
        return (await self._try(case, "program", answered(task, f"```python\n{program}\n```"))).outcome

    async def _attacks(self, texts: Mapping[str, str]) -> list[_Tried]:
        chosen = self.cases[:NUM_ATTACKED]
        return await self._try_all([each for case in chosen for each in self._said(case, texts)])

    def _said(self, case: RewardCase, texts: Mapping[str, str]) -> list[tuple[RewardCase, str, Episode]]:
        return [(case, name, answered(case.task, text)) for name, text in texts.items()]

    def _other(self, case: RewardCase) -> RewardCase | None:
        """One that wants something else."""
        return next(
            (
                other
                for other in self.cases
                if other.answer.strip() != case.answer.strip() and other.task.reference != case.task.reference
            ),
            None,
        )

    async def _try_all(self, answers: Sequence[tuple[RewardCase, str, Episode]]) -> list[_Tried]:
        return await asyncio.gather(*(self._try(*answer) for answer in answers))

    async def _try(self, case: RewardCase, name: str, episode: Episode) -> _Tried:
        async with self._slots:
            started = time.perf_counter()
            with no_exit():
                outcome = await grade_episode(
                    self.grader, case.task, episode, reward_range=self.reward_range, timeout_s=60.0
                )
            tried = _Tried(case=case, name=name, outcome=outcome, seconds=time.perf_counter() - started)
        self.tried.append(tried)
        self.on_graded()
        return tried


def answered(task: Task, text: str) -> Episode:
    """An episode in which the policy said that, and no more."""
    messages = (*task.messages, AssistantMessage(text))
    return Episode(
        task_id=task.id, seed=0, messages=messages, num_opening=len(task.messages), stop=StopReason.DONE
    )


def _changed(text: str) -> str:
    """With another last number.

    >>> _changed("2 + 2 = 4")
    '2 + 2 = 5'
    """
    return _LAST_NUMBER.sub(lambda found: str(int(found[0]) + 1), text)


def _number(outcome: Outcome) -> float | None:
    return outcome.reward if isinstance(outcome, Scored) else None


def _told(outcome: Outcome) -> str:
    if isinstance(outcome, Scored):
        return f"reward {outcome.reward:g} ({outcome.evidence:.200})"
    return f"no number: {outcome.reason if isinstance(outcome, Ungraded) else outcome.message:.300}"


def _row(name: str, flaws: Sequence[str], detail: str) -> Check:
    if flaws:
        detail = f"{flaws[0]}; and {len(flaws) - 1} more" if len(flaws) > 1 else flaws[0]
    return Check(name=name, passed=not flaws, detail=detail)
