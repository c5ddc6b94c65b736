"""Where the members of groups come in when they are played, and leave when they are graded."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..trajectory import EpisodeKey, Played, Trajectory
from .stage import Grading

if TYPE_CHECKING:
    from ..places import GroupRequest

Jobs = dict[tuple[EpisodeKey, ...], asyncio.Task[None]]


@dataclass(slots=True)
class _Group:
    """Of one request: who is still to come in, and which grades are still to come."""

    num_missing: int
    waiting: list[EpisodeKey] = field(default_factory=list[EpisodeKey])
    jobs: Jobs = field(default_factory=Jobs)
    closing: asyncio.Task[None] | None = None


class Desk:
    """Hands episodes to the stage, alone or with their siblings, and closes groups that take too long."""

    def __init__(
        self,
        grading: Grading,
        leave: Callable[["GroupRequest", EpisodeKey], bool],
        fail: Callable[[BaseException], None],
    ) -> None:
        """`leave` is told of each member that has its outcome in the run file. It says whether another one
        will come in for it."""
        self._grading, self._leave, self._fail = grading, leave, fail
        self._groups: dict[int, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def hand_in(self, request: "GroupRequest", member: Trajectory | Played) -> None:
        """A member is here; a `Played` one leaves again with its grade, any other one has left already."""
        group = self._groups.setdefault(id(request), _Group(num_missing=request.num_samples))
        group.num_missing -= 1
        if isinstance(member, Played):
            group.waiting.append(member.key)
        if group.waiting and (not group.num_missing or not self._grading.is_of_groups):
            self._start(request, group, tuple(sorted(group.waiting)))
            group.waiting.clear()
        self._look(request, group)

    async def close(self) -> None:
        """Stop waiting. The jobs stay in the run file."""
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, request: "GroupRequest", group: _Group, members: tuple[EpisodeKey, ...]) -> None:
        async def grade() -> None:
            await self._grading.grade(members, request.task)
            del group.jobs[members]
            self._out(request, group, members)

        group.jobs[members] = self._run(grade())

    def _look(self, request: "GroupRequest", group: _Group) -> None:
        """Forget a group that is done; of one whose last episode was played, the time runs."""
        if group.num_missing:
            return
        if not group.jobs:
            self._groups.pop(id(request), None)
            _stop_closing(group)
        elif self._grading.limits.close_after_s is not None and group.closing is None:
            group.closing = self._run(self._close(request, group, self._grading.limits.close_after_s))

    async def _close(self, request: "GroupRequest", group: _Group, after_s: float) -> None:
        """The group goes on without the grades that are not there by then."""
        await asyncio.sleep(after_s)
        reason = f"late: not there {after_s:g} s after the group's last episode was played"
        jobs, group.jobs, group.closing = group.jobs, Jobs(), None
        for members, job in jobs.items():
            self._grading.give_up(members, reason, is_late=True)
            job.cancel()
            self._out(request, group, members)

    def _out(self, request: "GroupRequest", group: _Group, members: Sequence[EpisodeKey]) -> None:
        for key in members:
            if self._leave(request, key):
                group.num_missing += 1
        if group.num_missing:  # its last episode will be another one
            self._groups[id(request)] = group
            _stop_closing(group)
        self._look(request, group)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)


def _stop_closing(group: _Group) -> None:
    if group.closing is not None:
        group.closing.cancel()
        group.closing = None
