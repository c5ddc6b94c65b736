"""The run file: every episode and step of a run, in one SQLite database.

An episode is written when it is issued and again when it has ended, so that after a crash the file says
what was finished (kept) and what was in flight (issued again, with the same seed).
"""

import json
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .engine import PolicyVersion
from .errors import LedgerError
from .grading.book import GRADE_SCHEMA, GradeBook
from .record import Record
from .runlock import RunLock, refuse_network_folder
from .trajectory import EpisodeKey, Trajectory

SCHEMA_VERSION = 2
_WITHOUT_GRADES = "1"
"""A schema that had no grade jobs, and is else the same: such a file gets their tables."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE episodes (
    split TEXT NOT NULL, epoch INTEGER NOT NULL, task_id TEXT NOT NULL,
    sample INTEGER NOT NULL, attempt INTEGER NOT NULL,
    version INTEGER NOT NULL,   -- policy that it started on
    state TEXT NOT NULL,        -- issued, played (waits for its grade), scored, ungraded, failed
    issued_at REAL NOT NULL, finished_at REAL,   -- seconds since 1970; they only grow
    reward REAL,                -- NULL unless scored
    stop TEXT,                  -- why the episode ended
    outcome TEXT, episode TEXT, graph TEXT,   -- JSON
    PRIMARY KEY (split, epoch, task_id, sample, attempt)
) STRICT, WITHOUT ROWID;
CREATE TABLE steps (step INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE INDEX episodes_by_state ON episodes (split, state);
"""


class Ledger:
    """The one writer of a run file.

    >>> with Ledger(folder) as ledger:
    ...     ledger.issue(key, version)
    ...     ledger.finish(trajectory)
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open `folder`/run.sqlite, made on first use. Raises `LedgerError`."""
        self.path = folder / "run.sqlite"
        self.grades = GradeBook(self)
        self._lock = None
        if not read_only:
            refuse_network_folder(folder)
            self._lock = RunLock(folder)
        try:
            with self._guarded():
                self._db = _connect(self.path, read_only)
                self._check_schema(read_only)
                latest = "SELECT max(max(issued_at), max(ifnull(finished_at, 0))) FROM episodes"
                self._latest: float = self._db.execute(latest).fetchone()[0] or 0.0
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back. Safe to call twice."""
        if (db := getattr(self, "_db", None)) is not None:
            db.close()
        if self._lock is not None:
            self._lock.release()

    def issue(self, key: EpisodeKey, version: PolicyVersion) -> None:
        """An episode is about to start. Issuing one that never finished starts it over."""
        with self._guarded():
            self._db.execute(
                "INSERT OR REPLACE INTO episodes (split, epoch, task_id, sample, attempt, version, state,"
                " issued_at) VALUES (?, ?, ?, ?, ?, ?, 'issued', ?)",
                (*key.primary, version, self.now()),
            )

    def finish(self, trajectory: Trajectory) -> None:
        """An episode has ended; from here on a crash cannot lose it."""
        record = Record.of(trajectory)
        with self._guarded():
            done = self._db.execute(
                "UPDATE episodes SET version = ?, state = ?, finished_at = ?, reward = ?, stop = ?,"
                " outcome = ?, episode = ?, graph = ?"
                " WHERE split = ? AND epoch = ? AND task_id = ? AND sample = ? AND attempt = ?"
                " AND state = 'issued'",
                (
                    trajectory.version,
                    trajectory.outcome.kind,
                    self.now(),
                    trajectory.reward,
                    trajectory.episode.stop.value,
                    record.outcome,
                    record.episode,
                    record.graph,
                    *trajectory.key.primary,
                ),
            )
        assert done.rowcount == 1, f"{trajectory.key} was finished without being issued, or twice"

    def is_issued(self, key: EpisodeKey) -> bool:
        """Whether an episode was ever about to start, whatever became of it."""
        where = "split = ? AND epoch = ? AND task_id = ? AND sample = ? AND attempt = ?"
        return bool(self.select(f"SELECT 1 FROM episodes WHERE {where}", key.primary))

    def finished(self, key: EpisodeKey) -> Trajectory | None:
        """The stored episode, or None while it has not ended, or has no outcome yet."""
        with self._guarded():
            row = self._db.execute(
                "SELECT version, episode, graph, outcome FROM episodes WHERE split = ? AND epoch = ? AND"
                " task_id = ? AND sample = ? AND attempt = ? AND state NOT IN ('issued', 'played')",
                key.primary,
            ).fetchone()
        return None if row is None else self._trajectory(key, row)

    def trajectories(self, split: str) -> Iterator[Trajectory]:
        """All finished episodes of a split, ordered by key."""
        with self._guarded():
            rows = self._db.execute(
                "SELECT epoch, task_id, sample, attempt, version, episode, graph, outcome FROM episodes"
                " WHERE split = ? AND state NOT IN ('issued', 'played')"
                " ORDER BY epoch, task_id, sample, attempt",
                (split,),
            )
            for epoch, task_id, sample, attempt, *rest in rows:
                key = EpisodeKey(split=split, epoch=epoch, task_id=task_id, sample=sample, attempt=attempt)
                yield self._trajectory(key, rest)

    def splits(self) -> list[str]:
        """The names under which episodes were issued, oldest first."""
        with self._guarded():
            rows = self._db.execute("SELECT split FROM episodes GROUP BY split ORDER BY min(issued_at)")
            return [split for (split,) in rows]

    def counts(self, split: str) -> Counter[str]:
        """Episodes by state: "issued", "played" (no grade yet), "scored", "ungraded", "failed"."""
        with self._guarded():
            rows = self._db.execute(
                "SELECT state, count(*) FROM episodes WHERE split = ? GROUP BY state", (split,)
            ).fetchall()
        return Counter(dict(rows))

    def stops(self, split: str) -> Counter[str]:
        """Finished episodes by stop reason."""
        with self._guarded():
            rows = self._db.execute(
                "SELECT stop, count(*) FROM episodes WHERE split = ?"
                " AND state NOT IN ('issued', 'played') GROUP BY stop",
                (split,),
            ).fetchall()
        return Counter(dict(rows))

    def record_step(self, step: int, record: Mapping[str, Any]) -> None:
        """What step `step` trained on and what came of it; a replayed step replaces its record."""
        with self._guarded():
            self._db.execute("INSERT OR REPLACE INTO steps VALUES (?, ?)", (step, json.dumps(record)))

    def step(self, step: int) -> dict[str, Any] | None:
        """The stored record of a step."""
        with self._guarded():
            row = self._db.execute("SELECT record FROM steps WHERE step = ?", (step,)).fetchone()
        try:
            return None if row is None else json.loads(row[0])
        except ValueError as error:
            raise self.unreadable(f"the record of step {step}", error) from error

    def step_numbers(self) -> list[int]:
        """The steps that have a record, in order."""
        with self._guarded():
            return [step for (step,) in self._db.execute("SELECT step FROM steps ORDER BY step")]

    def meta(self, key: str) -> str | None:
        """A fact of the run, such as the number of its warm start's examples."""
        with self._guarded():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        with self._guarded():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _trajectory(self, key: EpisodeKey, row: Sequence[Any]) -> Trajectory:
        version, episode, graph, outcome = row
        try:
            record = Record(episode=episode, graph=graph, outcome=outcome)
            return record.read(key, PolicyVersion(version))
        except (ValueError, TypeError) as error:
            raise self.unreadable(f"the episode {key}", error) from error

    def unreadable(self, what: str, error: Exception) -> LedgerError:
        """What to raise for a record that is damaged."""
        why = " ".join(str(error).split())
        return LedgerError(
            f"the run file {self.path} is corrupt: {what} cannot be read: {why:.300}; "
            "restore a copy of it, or start a new run under another name"
        )

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection, None, None]:
        """All of the block's changes, or none of them."""
        with self._guarded():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def select(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""
        with self._guarded():
            return self._db.execute(query, values).fetchall()

    def now(self) -> float:
        """The time for a record, or a moment after the last one's where the clock was put back."""
        self._latest = max(math.nextafter(self._latest, math.inf), time.time())
        return self._latest

    def _check_schema(self, read_only: bool) -> None:
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables == 0:
            version = f"INSERT INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}');"
            self._db.executescript(f"BEGIN; {_SCHEMA} {GRADE_SCHEMA} {version} COMMIT;")
        found = self.meta("schema_version")
        if found == _WITHOUT_GRADES:
            if not read_only:
                version = f"UPDATE meta SET value = '{SCHEMA_VERSION}' WHERE key = 'schema_version';"
                self._db.executescript(f"BEGIN; {GRADE_SCHEMA} {version} COMMIT;")
            return
        if found != str(SCHEMA_VERSION):
            raise LedgerError(
                f"{self.path} has schema version {found}, this palaestra writes {SCHEMA_VERSION}; "
                "open it with the version that wrote it, or start a new run under another name"
            )

    @contextmanager
    def _guarded(self) -> Generator[None, None, None]:
        """SQLite's errors in the words of a user."""
        try:
            yield
        except sqlite3.OperationalError as error:
            cure = "free some space and resume" if "full" in str(error) else "see that the folder is writable"
            raise LedgerError(f"cannot use the run file {self.path}: {error}; {cure}") from error
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"the run file {self.path} is corrupt: {error}; copy what `sqlite3 run.sqlite .recover` "
                "saves, or start a new run under another name"
            ) from error


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    # A reader could not remove the -wal and -shm files that it makes with mode=ro.
    mode = "rw" if read_only else "rwc"
    db = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False)
    if read_only:
        db.execute("PRAGMA query_only = ON")
    else:
        # WAL survives kill -9 at any point; NORMAL leaves only a power cut able to lose the last commits.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
    if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        db.close()
        raise sqlite3.DatabaseError(verdict)
    return db
