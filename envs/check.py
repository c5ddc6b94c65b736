"""Is this environment fit for training? Plays it with its oracle and with a policy that does nothing.

>>> (await check_env(FrozenLake, task_options={"size": 4, "num_maps": 9})).passed
True
"""

import asyncio
import math
import random
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._check_files import leaks_in
from ._check_leaks import CANARY, Resources, Secrets, long_texts, plant
from ._check_policies import Breaking, Probing, Waiting, Yielding, nothing
from .env import Env
from .episode import Episode
from .errors import no_exit
from .graders.grading import grade_episode
from .outcome import Outcome, Scored
from .play import play
from .policy import Policy
from .sandboxed import SandboxToolEnv
from .task import Task
from .worker_env import adopt

PolicyOf = Callable[[Task], Policy]
"""A policy for each task."""
REPEATS = 5
"""How often what must be deterministic is repeated."""
NUM_REPEATED = 10
"""Tasks of which it is asked."""
NUM_LUCKY = 400
"""Episodes of an oracle whose mean is judged, where luck decides a single one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One row of a report."""

    name: str
    passed: bool
    detail: str
    """What was seen; where it failed, what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What `check_env` found."""

    env: str
    """The class's name."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


async def check_env(
    env_class: type[Env[Any]],
    *,
    num_tasks: int = 5,
    seed: int = 0,
    task_options: Mapping[str, Any] | None = None,
    max_episode_s: float = 10.0,
) -> CheckReport:
    """Check `num_tasks` of the environment's tasks, drawn by `seed`.

    `max_episode_s`: seconds that an oracle's episode may spend in the environment.
    """
    found = env_class.tasks(**(task_options or {}))
    if not found:
        raise ValueError(f"{env_class.__name__}.tasks({dict(task_options or {})}) gave no task to check")
    chosen = random.Random(seed).sample(list(found), min(num_tasks, len(found)))
    return await _Checker(env_class, chosen, seed, max_episode_s).report()


class Flaw(Exception):
    """A check failed; the text is its detail."""


@dataclass(frozen=True, slots=True)
class _Checker:
    env_class: type[Env[Any]]
    tasks: Sequence[Task]
    seed: int
    max_episode_s: float
    played: dict[tuple[str, PolicyOf], Episode] = field(default_factory=dict[tuple[str, PolicyOf], Episode])
    graded: dict[tuple[str, PolicyOf], Outcome] = field(default_factory=dict[tuple[str, PolicyOf], Outcome])

    async def report(self) -> CheckReport:
        rows = {
            "oracle": self.oracle_earns_the_maximum,
            "floor": self.doing_nothing_earns_the_floor,
            "reset": self.reset_is_deterministic,
            "grading": self.grading_is_deterministic,
            "isolation": self.episodes_do_not_meet,
            "teardown": self.nothing_is_left_behind,
            "privacy": self.secrets_stay_secret,
            "files": self.files_give_nothing_away,
            "time": self.episodes_are_quick,
        }
        checks = [await self._row(name, check) for name, check in rows.items()]
        return CheckReport(env=self.env_class.__name__, checks=tuple(checks))

    async def _row(self, name: str, check: Callable[[], Awaitable[str]]) -> Check:
        limit_s = self.max_episode_s * len(self.tasks) * REPEATS
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                with no_exit():
                    return Check(name=name, passed=True, detail=await check())
        except TimeoutError as error:
            why = f"not done in {limit_s:g} s; does something hang?" if limit.expired() else repr(error)
            return Check(name=name, passed=False, detail=why)
        except Flaw as flaw:
            return Check(name=name, passed=False, detail=str(flaw))
        except Exception as error:  # every kind: the code under check is foreign, and a crash is a finding
            return Check(name=name, passed=False, detail=f"{type(error).__name__}: {error}")

    async def oracle_earns_the_maximum(self) -> str:
        maximum = self.env_class.reward_range[1]
        expected = [self.env_class.best_mean(task) for task in self.tasks]
        if any(mean != maximum for mean in expected):
            return await self._oracle_earns_its_mean(expected)
        await self._all_earn(maximum, self.env_class.oracle)
        return f"{len(self.tasks)} tasks solved"

    async def _oracle_earns_its_mean(self, expected: Sequence[float]) -> str:
        """Luck decides an episode: over many seeds the mean is held against the exact one."""
        gaps: list[float] = []
        for number in range(max(NUM_LUCKY, len(self.tasks))):
            task, mean = self.tasks[number % len(self.tasks)], expected[number % len(self.tasks)]
            episode = await self._play(task, self.env_class.oracle(task), seed=self.seed + number)
            outcome = await self._grade(task, episode)
            if not isinstance(outcome, Scored):
                raise Flaw(f"task {task.id!r}: the oracle's episode has no reward: {outcome}")
            gaps.append(outcome.reward - mean)
        gap, error = statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))
        if abs(gap) > 4 * error + 1e-9:
            raise Flaw(
                f"over {len(gaps)} episodes the oracle's mean is off `best_mean` by {gap:+.3f}, "
                f"with a standard error of {error:.3f}"
            )
        return f"{len(gaps)} episodes within 4 standard errors of {error:.3f} of the best mean"

    async def doing_nothing_earns_the_floor(self) -> str:
        await self._all_earn(self.env_class.reward_range[0], nothing)
        return f"{len(self.tasks)} tasks left alone"

    async def reset_is_deterministic(self) -> str:
        for task in self.tasks[:NUM_REPEATED]:
            first, *others = [await self._reset(task) for _ in range(REPEATS)]
            for other in others:
                if other != first:
                    raise Flaw(f"task {task.id!r}: the same seed gave {first!r} and {other!r}"[:2000])
        return f"{REPEATS} equal resets of each of {len(self.tasks[:NUM_REPEATED])} tasks"

    async def grading_is_deterministic(self) -> str:
        for task in self.tasks[:NUM_REPEATED]:
            for policy in (self.env_class.oracle, nothing):
                first, episode = await self._outcome(task, policy), await self._episode(task, policy)
                others = [await self._grade(task, episode) for _ in range(REPEATS - 1)]
                for other in others:
                    if other != first:
                        raise Flaw(f"task {task.id!r}: one episode was graded {first!r} and {other!r}")
        return f"{REPEATS} equal grades of each of {2 * len(self.tasks[:NUM_REPEATED])} episodes"

    async def episodes_do_not_meet(self) -> str:
        """Two at once, taking turns, see what each sees alone."""
        pair = (self.tasks[0], self.tasks[-1])
        alone = [await self._episode(task, self.env_class.oracle) for task in pair]
        together = await asyncio.gather(
            *(self._play(task, Yielding(self.env_class.oracle(task))) for task in pair)
        )
        for task, one, other in zip(pair, alone, together, strict=True):
            if (one.messages, one.rewards) != (other.messages, other.rewards):
                raise Flaw(
                    f"task {task.id!r} went another way beside a second episode; look for shared state"
                )
        return "2 episodes at once went as each alone"

    async def nothing_is_left_behind(self) -> str:
        task = self.tasks[0]
        before = await Resources.settled()
        for policy in (self.env_class.oracle(task), Breaking()):
            await self._play(task, policy)
        await self._cancel_under_way(task)
        left = (await Resources.settled(at_most=before)).over(before)
        if left:
            raise Flaw(f"left after finished, failed and cancelled episodes: {left}; free them in `close`")
        return "no process, task, thread or file stays open"

    async def secrets_stay_secret(self) -> str:
        for task in self.tasks:
            canary, planted = plant(task)
            secrets = Secrets(task, canary)
            probe = Probing(self.env_class.oracle(task))
            for episode in (await self._play(planted, probe), await self._play(planted, nothing(task))):
                if (leak := secrets.shown_in(episode)) is not None:
                    raise Flaw(f"task {task.id!r}: {leak}; the model must never see reference or private")
        return f"no reference or private value in what {len(self.tasks)} tasks show"

    async def files_give_nothing_away(self) -> str:
        for task in self.tasks:
            _, planted = plant(task)
            secrets = [text for text in long_texts(task) if text not in task.prompt_text]
            for shown in (task, planted):
                env = adopt(self.env_class())
                if not isinstance(env, SandboxToolEnv):
                    return "there is no sandbox with files to look into"
                try:
                    await env.reset(shown, seed=self.seed)
                    leaks = await leaks_in(await env.box(), [CANARY, *secrets])
                finally:
                    await env.close()
                if leaks:
                    raise Flaw(f"task {task.id!r}: {leaks[0].place}: {leaks[0].why}"[:2000])
        return f"no answer in the files that {len(self.tasks)} tasks begin with"

    async def episodes_are_quick(self) -> str:
        episodes = [await self._episode(task, self.env_class.oracle) for task in self.tasks]
        slowest = max(episode.timing.env_s for episode in episodes)
        if slowest > self.max_episode_s:
            raise Flaw(
                f"an oracle's episode took {slowest:.2f} s in the environment, over {self.max_episode_s:g}"
            )
        return f"at most {slowest:.3f} s in the environment"

    async def _episode(self, task: Task, policy: PolicyOf) -> Episode:
        """By the checker's seed: played once, and read by several checks."""
        if (task.id, policy) not in self.played:
            self.played[task.id, policy] = await self._play(task, policy(task))
        return self.played[task.id, policy]

    async def _outcome(self, task: Task, policy: PolicyOf) -> Outcome:
        """Of that episode: graded once for the checks that read it."""
        if (task.id, policy) not in self.graded:
            self.graded[task.id, policy] = await self._grade(task, await self._episode(task, policy))
        return self.graded[task.id, policy]

    async def _play(self, task: Task, policy: Policy, seed: int | None = None) -> Episode:
        episode = await play(self.env_class(), policy, task, seed=self.seed if seed is None else seed)
        if (error := dict(episode.env_info).get("close_error")) is not None:
            raise Flaw(f"task {task.id!r}: {error}")
        return episode

    async def _cancel_under_way(self, task: Task) -> None:
        waiting = asyncio.Event()
        episode = asyncio.create_task(self._play(task, Waiting(waiting)))
        started = asyncio.create_task(waiting.wait())
        await asyncio.wait({episode, started}, return_when=asyncio.FIRST_COMPLETED)
        for item in (episode, started):
            item.cancel()
        await asyncio.gather(episode, started, return_exceptions=True)

    async def _grade(self, task: Task, episode: Episode) -> Outcome:
        env = self.env_class()
        return await grade_episode(env.grader, task, episode, reward_range=env.reward_range)

    async def _reset(self, task: Task) -> Any:
        env = adopt(self.env_class())
        try:
            return await env.reset(task, seed=self.seed)
        finally:
            await env.close()

    async def _all_earn(self, reward: float, policy: PolicyOf) -> None:
        for task in self.tasks:
            outcome = await self._outcome(task, policy)
            if not isinstance(outcome, Scored) or not math.isclose(outcome.reward, reward, abs_tol=1e-9):
                raise Flaw(f"task {task.id!r}: expected reward {reward:g}, got {outcome}")
