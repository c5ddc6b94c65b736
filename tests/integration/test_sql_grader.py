"""SQL by its result, in the real sandbox: what counts as equal, and what a query cannot do."""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from spoken import graded, outcome, score
from support import data_path, require, run_async

from palaestra.envs import Task, Ungraded
from palaestra.envs.graders import SqlResult, sql
from palaestra.envs.graders.query import QueryError, Table, ask, contents, put
from palaestra.envs.graders.sql import is_ordered
from palaestra.sandboxes import ExecResult, Sandbox, SandboxSpec, open_sandbox

SMALL = SandboxSpec(memory_mb=128, pids=16, disk_mb=32)
ENDLESS = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t)"


@pytest.fixture
def concerts(tmp_path: Path) -> str:
    """A database of singers."""
    path = tmp_path / "concerts.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        """
        CREATE TABLE singer (id INTEGER, name TEXT, age INTEGER, share REAL, photo BLOB);
        INSERT INTO singer VALUES (1, 'Ann', 30, 0.1, x'00ff'), (2, 'Bo', 25, 0.2, NULL),
            (3, 'Cy', 25, 0.3, NULL), (4, 'Ann', NULL, 0.4, NULL);
        """
    )
    connection.execute("INSERT INTO singer VALUES (5, CAST(x'ff' AS TEXT), 99, 1.0, NULL)")
    connection.commit()
    connection.close()
    return str(path)


@pytest.mark.parametrize(
    ("gold", "said", "reward"),
    [
        (
            "SELECT name FROM singer WHERE age = 25",
            "SELECT name FROM singer WHERE age = 25 ORDER BY 1 DESC",
            1.0,
        ),
        ("SELECT name FROM singer WHERE age = 25", "SELECT name FROM singer WHERE age < 26", 1.0),
        ("SELECT name FROM singer WHERE age = 25", "SELECT name FROM singer WHERE id > 1 AND age < 30;", 1.0),
        ("SELECT name FROM singer WHERE age = 25", "SELECT 'Bo' UNION ALL SELECT 'Cy'", 1.0),
        ("SELECT name FROM singer WHERE age = 25", "SELECT name FROM singer WHERE age = 30", 0.0),
        ("SELECT name FROM singer WHERE age = 25", "SELECT name, age FROM singer WHERE age = 25", 0.0),
        ("SELECT name FROM singer WHERE age = 25", "SELECT upper(name) FROM singer WHERE age = 25", 0.0),
        ("SELECT name FROM singer WHERE id < 5", "SELECT DISTINCT name FROM singer WHERE id < 5", 0.0),
        ("SELECT id FROM singer ORDER BY id", "SELECT id FROM singer ORDER BY id DESC", 0.0),
        ("SELECT id FROM singer ORDER BY id", "SELECT id FROM singer ORDER BY share", 1.0),
        (
            "SELECT id FROM singer ORDER BY id DESC LIMIT 2",
            "SELECT id FROM singer WHERE id > 3 ORDER BY -id",
            1.0,
        ),
        ("SELECT * FROM (SELECT id FROM singer ORDER BY id)", "SELECT id FROM singer ORDER BY id DESC", 1.0),
        ("SELECT count(*) FROM singer", "SELECT 5.0", 1.0),
        ("SELECT count(*) FROM singer", "SELECT '5'", 0.0),
        ("SELECT sum(share) FROM singer", "SELECT 1.0 + 0.4 + 0.3 + 0.2 + 0.1", 1.0),
        ("SELECT sum(share) FROM singer", "SELECT 2.000001", 0.0),
        ("SELECT id, share FROM singer", "SELECT id, share * 3 / 3 FROM singer ORDER BY 2 DESC", 1.0),
        ("SELECT age FROM singer WHERE id = 4", "SELECT NULL", 1.0),
        ("SELECT age FROM singer WHERE id = 4", "SELECT ''", 0.0),
        ("SELECT photo FROM singer WHERE id = 1", "SELECT x'00FF'", 1.0),
        ("SELECT photo FROM singer WHERE id = 1", "SELECT '00ff'", 0.0),
        ("SELECT name FROM singer WHERE id = 5", "SELECT name FROM singer WHERE age = 99", 1.0),
        ("SELECT 9007199254740993", "SELECT 9007199254740992", 0.0),
        ("SELECT 1 WHERE 0", "SELECT 2 WHERE 0", 1.0),
        ("SELECT 1 WHERE 0", "SELECT 1, 2 WHERE 0", 0.0),
        ("SELECT 1 WHERE 0", "SELECT 1", 0.0),
        ("SELECT 1 WHERE 0", "", 0.0),
        ("SELECT 1 WHERE 0", "I do not know.", 0.0),
        ("SELECT 1", "So it is:\n```sql\nSELECT 2\n```\nno,\n```sql\nSELECT 1\n```\nThat is it.", 1.0),
        ("SELECT 1", "```sql\nSELECT 1\n```\nno,\n```sql\nSELECT 2\n```", 0.0),
    ],
)
def test_the_rows_count_and_not_the_text(concerts: str, gold: str, said: str, reward: float) -> None:
    found = score(SqlResult(sandbox=SMALL), gold, said, {"database": concerts})
    assert found.reward == reward, found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order\n/* so */ by a desc limit 1;", True),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY 1", True),
        ("SELECT a FROM t", False),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("WITH u AS (SELECT a FROM t ORDER BY a LIMIT 1) SELECT * FROM u", False),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT 'x ORDER BY y', \"order by\", `order by`, [order by] FROM t -- ORDER BY a", False),
        ("SELECT '(' FROM t ORDER BY a", True),
        ('SELECT order_by, "a""b" FROM t', False),
    ],
)
def test_only_an_order_by_outside_of_brackets_orders_the_rows(query: str, expected: bool) -> None:
    assert is_ordered(query) is expected


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ATTACH 'x.db' AS y", "not authorized"),
        ("ATTACH '/etc/passwd' AS y", "not authorized"),
        ("DETACH main", "not authorized"),
        ("PRAGMA journal_mode", "not authorized"),
        ("PRAGMA query_only = 0", "not authorized"),
        ("PRAGMA writable_schema = 1", "not authorized"),
        ("SELECT load_extension('/lib/x86_64-linux-gnu/libc.so.6')", "not authorized"),
        ("SELECT readfile('/etc/passwd')", "no such function"),
        ("DELETE FROM singer", "not authorized"),
        ("UPDATE singer SET age = 1", "not authorized"),
        ("INSERT INTO singer (id) VALUES (9) RETURNING id", "not authorized"),
        ("DROP TABLE singer", "not authorized"),
        ("CREATE TABLE a (b)", "not authorized"),
        ("CREATE TEMP TABLE a AS SELECT 1", "not authorized"),
        ("CREATE VIRTUAL TABLE a USING fts5(b)", "not authorized"),
        ("VACUUM INTO 'copy.db'", "authoriz"),
        ("BEGIN EXCLUSIVE", "not authorized"),
        ("SELECT 1; DROP TABLE singer", "one statement at a time"),
        (f"{ENDLESS} SELECT count(*) FROM t", "it takes over 1 s"),
        (f"{ENDLESS} SELECT x FROM t", "it gives over 100000 rows"),
        (f"{ENDLESS} SELECT hex(zeroblob(100000)) FROM t", "it gives over 16777216 characters"),
        ("SELECT hex(zeroblob(400000000))", "the query ended its process: oom"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "parser stack overflow"),
        ("SELECT 'a\0b'", "null character"),
        ("SELECT '\ud800'", "surrogates not allowed"),
        ("SELECT nme FROM singer", "no such column: nme"),
        ("-- nothing", "it is no SELECT"),
        ("SELECT abs(-9223372036854775808)", "integer overflow"),
    ],
)
def test_a_query_that_is_no_question_is_refused_or_stopped_and_harms_nothing(
    concerts: str, query: str, said: str
) -> None:
    before = contents(concerts)

    async def main() -> Table:
        async with open_sandbox(SMALL) as box:
            await put(box, concerts)
            with pytest.raises(QueryError, match=said):
                await ask(box, query, timeout_s=1.0)
            assert set(await box.list(".")) == {"database.sqlite"}
            assert await box.read("database.sqlite") == before
            return await ask(box, "SELECT count(*) FROM singer", timeout_s=5.0)

    assert run_async(main()).rows == ((("integer", "5"),),)
    assert contents(concerts) == before
    found = score(SqlResult(timeout_s=1.0, sandbox=SMALL), "SELECT 1", query, {"database": concerts})
    assert found.reward == 0.0 and found.components == {"runs": 0.0}


def test_tables_may_be_looked_at(concerts: str) -> None:
    async def main() -> list[Table]:
        async with open_sandbox(SMALL) as box:
            await put(box, concerts)
            questions = ("PRAGMA table_info(singer)", "SELECT name FROM sqlite_master", "EXPLAIN SELECT 1")
            return [await ask(box, question, timeout_s=5.0) for question in questions]

    columns, tables, _ = run_async(main())
    assert [row[1][1] for row in columns.rows] == ["id", "name", "age", "share", "photo"]
    assert tables.rows == ((("text", "singer"),),)


class Watched:
    """A sandbox, and all that went into it."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.entered: list[bytes] = []

    async def write(self, path: str, data: bytes) -> None:
        self.entered += [path.encode(), data]
        await self.box.write(path, data)

    async def run(self, argv: Sequence[str], *, stdin: bytes, **options: Any) -> ExecResult:
        self.entered += [*(word.encode() for word in argv), stdin]
        return await self.box.run(argv, stdin=stdin, **options)


def test_the_reference_and_its_rows_are_not_where_the_query_runs(
    concerts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes: list[Watched] = []

    @asynccontextmanager
    async def watched(spec: SandboxSpec) -> AsyncGenerator[Watched, None]:
        async with open_sandbox(spec) as box:
            boxes.append(Watched(box))
            yield boxes[-1]

    monkeypatch.setattr(sql, "open_sandbox", watched)
    gold = "SELECT 'gold' || id FROM singer WHERE 'gold-text' != ''"
    assert score(SqlResult(sandbox=SMALL), gold, "SELECT 'mine'", {"database": concerts}).reward == 0.0
    for_gold, for_query = boxes
    assert any(b"gold-text" in data for data in for_gold.entered)
    assert any(b"'mine'" in data for data in for_query.entered)
    assert not any(b"gold" in data for data in for_query.entered)


@pytest.mark.parametrize(
    ("gold", "private", "said"),
    [
        ("SELECT nme FROM singer", {}, "gave no rows: no such column: nme"),
        ("DELETE FROM singer", {}, "gave no rows: not authorized"),
        (None, {}, "no reference to compare with"),
        ("SELECT 1", {"database": "/no/such.sqlite"}, "'/no/such.sqlite' cannot be read"),
        ("SELECT 1", {"database": __file__}, "is no SQLite file"),
    ],
)
def test_a_task_that_cannot_be_used_is_not_graded(
    concerts: str, gold: str | None, private: dict[str, str], said: str
) -> None:
    found = outcome(SqlResult(sandbox=SMALL), gold, "SELECT 1", {"database": concerts} | private)
    assert isinstance(found, Ungraded) and said in found.reason


def test_a_script_makes_a_database_as_well(tmp_path: Path) -> None:
    path = tmp_path / "small.sql"
    path.write_text("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);")
    assert score(SqlResult(), "SELECT sum(a) FROM t", "SELECT 3", {"database": str(path)}).reward == 1.0


def questions() -> list[Task]:
    with open(data_path("spider_dev", "questions.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        Task(
            id=str(number),
            reference=row["gold"],
            private={"database": str(data_path("spider_dev", "database", f"{row['db']}.sqlite"))},
            metadata={"n_rows": row["n_rows"]},
        )
        for number, row in enumerate(rows)
    ]


def rewritten(task: Task) -> str:
    """The same rows by another text; in another order where the reference has none."""
    order = "" if is_ordered(task.reference) else " ORDER BY 1 DESC"
    return f"WITH found AS ({task.reference.rstrip('; ')}) SELECT * FROM found{order}"


def wrong(task: Task) -> str:
    """A query that runs and gives one row less, or one too many where there is none."""
    if task.metadata["n_rows"] == 0:
        return "SELECT 1"
    return f"WITH found AS ({task.reference.rstrip('; ')}) SELECT * FROM found LIMIT -1 OFFSET 1"


@pytest.mark.data
@pytest.mark.parametrize(
    ("first", "step"),
    [(0, 7), pytest.param(0, 1, marks=[pytest.mark.acceptance, pytest.mark.timeout(600)])],
    ids=["every seventh", "all"],
)
def test_every_spider_query_is_right_an_equivalent_one_too_and_a_wrong_one_that_runs_is_not(
    first: int, step: int
) -> None:
    require("data")
    tasks = questions()
    assert (len(tasks), len({task.private["database"] for task in tasks})) == (410, 10)
    room = asyncio.Semaphore(4)

    async def judged(task: Task) -> tuple[float, ...]:
        async with room:
            scores = [
                await graded(SqlResult(), task, said)
                for said in (task.reference, rewritten(task), wrong(task))
            ]
        assert scores[2].components == {"runs": 1.0}, (task.reference, scores[2])
        return tuple(score.reward for score in scores)

    async def main() -> list[tuple[float, ...]]:
        return await asyncio.gather(*map(judged, tasks[first::step]))

    assert Counter(run_async(main())) == {(1.0, 1.0, 0.0): len(tasks[first::step])}
