"""Verdicts that are already known."""

import sqlite3
import threading
from pathlib import Path


class VerdictCache:
    """Verdicts by what was asked: in memory, or in a SQLite file that several runs may share.

    >>> cache = VerdictCache()
    >>> cache.put("k", "{}")
    >>> cache.get("k"), cache.get("other")
    ('{}', None)
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """The file is made when the first verdict is looked for."""
        self._path = ":memory:" if path is None else str(path)
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def get(self, key: str) -> str | None:
        with self._lock:
            found = self._open().execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def put(self, key: str, verdict: str) -> None:
        """Of two that were asked at the same time, the first stays."""
        with self._lock, self._open() as db:
            db.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, verdict))

    def close(self) -> None:
        """It opens again when it is needed again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            db = sqlite3.connect(self._path, timeout=30.0, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)")
            self._db = db
        return self._db
