"""The run file's part on grades: episodes that wait for one, jobs, and every result that ever came.

A job is written before anything waits for it, its handle as soon as there is one, and its result in the same
transaction as the outcomes of its episodes. So after kill -9 the file says what is still to be asked for, and
an episode has exactly one outcome, however many answers come.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from sqlite3 import Connection
from typing import TYPE_CHECKING, Any

from ...envs import Scored, Ungraded
from ..engine import PolicyVersion
from ..record import Record, outcome_json
from ..trajectory import NOT_YET, EpisodeKey, Played
from .job import Fate, GradeJob

if TYPE_CHECKING:
    from ..ledger import Ledger

GRADE_SCHEMA = """
CREATE TABLE grade_jobs (
    id TEXT PRIMARY KEY,
    members TEXT NOT NULL,      -- JSON: [[split, epoch, task, sample, attempt], ...]
    state TEXT NOT NULL,        -- open, done, given up
    attempt INTEGER NOT NULL,   -- tries that came to nothing
    handle TEXT,                -- of the try under way; of a job that is over: to be told to the grader
    opened_at REAL NOT NULL, submitted_at REAL, ended_at REAL   -- seconds since 1970
) STRICT, WITHOUT ROWID;
CREATE TABLE grade_results (
    job TEXT NOT NULL, attempt INTEGER NOT NULL, at REAL NOT NULL,
    fate TEXT NOT NULL,         -- kept, duplicate, late, broken, given up
    said TEXT NOT NULL          -- what came
) STRICT;
"""

_THIS_EPISODE = "split = ? AND epoch = ? AND task_id = ? AND sample = ? AND attempt = ?"


class GradeBook:
    """`Ledger.grades`."""

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger

    def keep_played(self, played: Played) -> None:
        """An episode has been played and waits for its grade; a crash cannot lose it either."""
        record = Record.of(played.judged(NOT_YET))
        with self._ledger.transaction() as db:
            done = db.execute(
                "UPDATE episodes SET version = ?, state = 'played', stop = ?, episode = ?, graph = ?"
                f" WHERE {_THIS_EPISODE} AND state = 'issued'",
                (
                    played.version,
                    played.episode.stop.value,
                    record.episode,
                    record.graph,
                    *played.key.primary,
                ),
            )
            assert done.rowcount == 1, f"{played.key} was played without being issued, or twice"

    def played(self, key: EpisodeKey) -> Played | None:
        """The stored episode if it waits for its grade."""
        rows = self._ledger.select(
            f"SELECT version, episode, graph FROM episodes WHERE {_THIS_EPISODE} AND state = 'played'",
            key.primary,
        )
        if not rows:
            return None
        version, episode, graph = rows[0]
        try:
            record = Record(episode=episode, graph=graph, outcome=outcome_json(NOT_YET))
            stored = record.read(key, PolicyVersion(version))
        except (ValueError, TypeError) as error:
            raise self._ledger.unreadable(f"the episode {key}", error) from error
        return Played(key=key, version=stored.version, episode=stored.episode, graph=stored.graph)

    def waiting(self, split: str) -> set[EpisodeKey]:
        """The episodes of a split that wait for their grade."""
        rows = self._ledger.select(
            "SELECT split, epoch, task_id, sample, attempt FROM episodes"
            " WHERE split = ? AND state = 'played'",
            (split,),
        )
        return set(map(_key, rows))

    def open(self, members: Sequence[EpisodeKey]) -> GradeJob:
        """The job of these episodes; the stored one if there is one."""
        identity = json.dumps([self._run(), [member.primary for member in members]])
        name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        with self._ledger.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO grade_jobs (id, members, state, attempt, opened_at)"
                " VALUES (?, ?, 'open', 0, ?)",
                (name, json.dumps([member.primary for member in members]), self._ledger.now()),
            )
        found = self.job(name)
        assert found is not None, "it was there or is now"
        return found

    def job(self, name: str) -> GradeJob | None:
        """A stored job."""
        rows = self._ledger.select(
            "SELECT members, state, attempt, handle FROM grade_jobs WHERE id = ?", (name,)
        )
        if not rows:
            return None
        members, state, attempt, handle = rows[0]
        keys = tuple(map(_key, json.loads(members)))
        return GradeJob(id=name, members=keys, state=state, attempt=attempt, handle=handle)

    def submitted(self, job: GradeJob, handle: str) -> bool:
        """A try is under way, and this is how to ask for it. False: the job has moved on meanwhile."""
        with self._ledger.transaction() as db:
            done = db.execute(
                "UPDATE grade_jobs SET handle = ?, submitted_at = ?"
                " WHERE id = ? AND attempt = ? AND state = 'open'",
                (handle, self._ledger.now(), job.id, job.attempt),
            )
            return done.rowcount == 1

    def broke(self, job: GradeJob, why: str, outcome: Ungraded | None = None) -> None:
        """The try under way came to nothing; the next one has another key.

        `outcome`: of its episodes, where there is no next one.
        """
        with self._ledger.transaction() as db:
            self._note(db, job.id, job.attempt, Fate.BROKEN, why)
            db.execute(
                "UPDATE grade_jobs SET attempt = attempt + 1, handle = NULL"
                " WHERE id = ? AND attempt = ? AND state = 'open'",
                (job.id, job.attempt),
            )
            if outcome is not None:
                self._settle(db, job, [outcome] * len(job.members), "given up")

    def give_up(self, job: GradeJob, outcome: Ungraded) -> None:
        """Nobody waits any longer for an open job: the outcome of its episodes."""
        with self._ledger.transaction() as db:
            self._settle(db, job, [outcome] * len(job.members), "given up")
            self._note(db, job.id, job.attempt, Fate.GIVEN_UP, outcome.reason)

    def settle(self, name: str, attempt: int, outcomes: Sequence[Scored | Ungraded], *, said: str) -> Fate:
        """The result of a job, if it is open: its episodes get their outcomes, all or none.

        `said`: what came in, for the record. A job that is over keeps what it has, whatever comes.
        """
        job = self.job(name)
        if job is None:
            return Fate.UNKNOWN
        fate = Fate.KEPT if job.is_open else Fate.DUPLICATE if job.state == "done" else Fate.LATE
        with self._ledger.transaction() as db:
            if fate is Fate.KEPT:
                self._settle(db, job, outcomes, "done")
            self._note(db, name, attempt, fate, said)
        return fate

    def _settle(
        self, db: Connection, job: GradeJob, outcomes: Sequence[Scored | Ungraded], state: str
    ) -> None:
        now = self._ledger.now()
        for key, outcome in zip(job.members, outcomes, strict=True):
            reward = outcome.reward if isinstance(outcome, Scored) else None
            done = db.execute(
                "UPDATE episodes SET state = ?, finished_at = ?, reward = ?, outcome = ?"
                f" WHERE {_THIS_EPISODE} AND state = 'played'",
                (outcome.kind, now, reward, outcome_json(outcome), *key.primary),
            )
            assert done.rowcount == 1, f"{key} was graded without being played, or twice"
        ended = "UPDATE grade_jobs SET state = ?, ended_at = ? WHERE id = ?"
        db.execute(ended, (state, now, job.id))

    def leftovers(self) -> list[str]:
        """The handles of jobs that are over, of which the grader has not been told."""
        rows = self._ledger.select(
            "SELECT handle FROM grade_jobs WHERE state != 'open' AND handle IS NOT NULL"
        )
        return [handle for (handle,) in rows]

    def released(self, handle: str) -> None:
        """The grader knows that the try is over."""
        with self._ledger.transaction() as db:
            db.execute("UPDATE grade_jobs SET handle = NULL WHERE handle = ? AND state != 'open'", (handle,))

    def note(self, name: str, attempt: int, fate: Fate, said: str) -> None:
        """A result came in; this is what became of it."""
        with self._ledger.transaction() as db:
            self._note(db, name, attempt, fate, said)

    def _note(self, db: Connection, name: str, attempt: int, fate: Fate, said: str) -> None:
        values = (name, attempt, self._ledger.now(), fate.value, said)
        db.execute("INSERT INTO grade_results VALUES (?, ?, ?, ?, ?)", values)

    def secret(self, name: str) -> str:
        """A random word of this run, the same after a restart."""
        if (found := self._ledger.meta(name)) is None:
            self._ledger.set_meta(name, found := secrets.token_hex(16))
        return found

    def _run(self) -> str:
        """Tells this run's jobs from those of other runs at the same grader."""
        return self.secret("grading_run")


def _key(columns: Sequence[Any]) -> EpisodeKey:
    split, epoch, task_id, sample, attempt = columns
    return EpisodeKey(split=split, epoch=epoch, task_id=task_id, sample=sample, attempt=attempt)
