"""The run file: what it keeps, and how it explains that it cannot."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from palaestra.agents.engine import PolicyVersion, VersionSpan
from palaestra.agents.errors import LedgerError
from palaestra.agents.ledger import Ledger
from palaestra.agents.tokengraph import Call, Segment, TokenGraph
from palaestra.agents.trajectory import EpisodeKey, Trajectory
from palaestra.envs import AssistantMessage, Episode, Scored, StopReason, ToolCall, ToolMessage, UserMessage

V3 = PolicyVersion(3)


def trajectory(sample: int = 0, *, reward: float = 0.1) -> Trajectory:
    span = VersionSpan(version=V3, start=0, end=2)
    call = Call(prompt_ids=(1, 2), completion_ids=(3, 4), logprobs=(-0.1, -1 / 3), versions=(span,))
    messages = (
        UserMessage("hi \ud800".encode("utf-8", "replace").decode()),
        AssistantMessage("x", tool_calls=(ToolCall(id="1", name="f", arguments={"a": [1, None]}),)),
        ToolMessage("9", call_id="1"),
    )
    return Trajectory(
        key=EpisodeKey(epoch=0, task_id="t", sample=sample),
        version=V3,
        episode=Episode(task_id="t", seed=5, messages=messages, stop=StopReason.DONE, rewards=(0.0,)),
        graph=TokenGraph(segments=(Segment(calls=(call,)),)),
        outcome=Scored(reward=reward, components={"exact": reward}),
    )


def test_an_episode_reads_back_as_it_was(tmp_path: Path) -> None:
    one = trajectory()
    with Ledger(tmp_path) as ledger:
        ledger.issue(one.key, V3)
        assert ledger.finished(one.key) is None
        ledger.finish(one)
    with Ledger(tmp_path, read_only=True) as ledger:
        assert ledger.finished(one.key) == one
        assert list(ledger.trajectories("train")) == [one]


def test_every_issued_episode_is_counted_once(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for sample in range(3):
            ledger.issue(EpisodeKey(epoch=0, task_id="t", sample=sample), V3)
        ledger.issue(EpisodeKey(epoch=0, task_id="t", sample=0), V3)
        ledger.finish(trajectory(1))
        assert ledger.counts("train") == {"issued": 2, "scored": 1}
        assert ledger.stops("train") == {"done": 1}


def test_an_episode_is_never_finished_twice(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.issue(trajectory().key, V3)
        ledger.finish(trajectory())
        with pytest.raises(AssertionError, match="twice"):
            ledger.finish(trajectory(reward=0.9))
        found = ledger.finished(trajectory().key)
        assert found is not None and found.reward == 0.1


def write_until_killed(folder: Path) -> None:
    """Run by a child process: 50 finished episodes, one in flight, then wait for the end."""
    ledger = Ledger(folder)
    for sample in range(50):
        ledger.issue(trajectory(sample).key, V3)
        ledger.finish(trajectory(sample))
    ledger.issue(trajectory(50).key, V3)
    print("written", flush=True)
    signal.pause()


def test_what_was_finished_survives_kill_9(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path;"
        f"import test_ledger; test_ledger.write_until_killed(Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"written\n"
        child.kill()
    with Ledger(tmp_path) as ledger:
        assert ledger.counts("train") == {"scored": 50, "issued": 1}
        assert ledger.finished(trajectory(49).key) == trajectory(49)


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(LedgerError, match=f"written by process {os.getpid()}"):
        Ledger(tmp_path)
    Ledger(tmp_path).close()


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_corrupt_run_file_is_explained(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "run.sqlite").write_bytes(damage)
    with pytest.raises(LedgerError, match="corrupt"):
        Ledger(tmp_path)


@pytest.mark.parametrize("column", ["episode", "graph", "outcome"])
def test_an_episode_whose_json_was_cut_is_named(tmp_path: Path, column: str) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.issue(trajectory().key, V3)
        ledger.finish(trajectory())
        ledger.record_step(1, {"loss": 0.1})
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as db:
        db.execute(f"UPDATE episodes SET {column} = substr({column}, 1, 20)")
        db.execute("UPDATE steps SET record = '{'")
        db.commit()
    with Ledger(tmp_path) as ledger:
        with pytest.raises(LedgerError, match=r"EpisodeKey.*task_id='t', sample=0.*cannot be read: .* EOF"):
            ledger.finished(trajectory().key)
        with pytest.raises(LedgerError, match=r"EpisodeKey.*task_id='t'"):
            list(ledger.trajectories("train"))
        with pytest.raises(LedgerError, match="the record of step 1 cannot be read"):
            ledger.step(1)


def test_what_json_would_change_is_never_written(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.issue(trajectory().key, V3)
        with pytest.raises(ValueError, match="Expected `float`"):
            ledger.finish(replace(trajectory(), outcome=Scored(reward="1")))  # type: ignore[arg-type]
        assert ledger.counts("train") == {"issued": 1}


def test_a_clock_that_goes_back_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 1001.0, 5.0, 6.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    one, two = trajectory(), EpisodeKey(split="final", epoch=0, task_id="t", sample=0)
    with Ledger(tmp_path) as ledger:
        ledger.issue(one.key, V3)
        ledger.finish(one)
        ledger.issue(two, V3)
    with Ledger(tmp_path) as ledger:
        ledger.issue(replace(two, split="again"), V3)
        assert ledger.splits() == ["train", "final", "again"]


def test_a_run_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.set_meta("schema_version", "99")
    with pytest.raises(LedgerError, match="99"):
        Ledger(tmp_path)


def test_a_look_at_a_run_file_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.set_meta("a", "b")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with Ledger(tmp_path, read_only=True) as ledger:
        assert ledger.meta("a") == "b"
        with pytest.raises(LedgerError, match="readonly"):
            ledger.set_meta("a", "c")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_that_is_being_written_can_be_looked_at(tmp_path: Path) -> None:
    with Ledger(tmp_path) as writer:
        writer.set_meta("a", "b")
        with Ledger(tmp_path, read_only=True) as reader:
            writer.set_meta("a", "c")
            assert reader.meta("a") == "c"
        writer.set_meta("a", "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.lock", "run.sqlite"]


def test_steps_are_kept_in_order(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.record_step(1, {"loss": 0.1})
        ledger.record_step(2, {"loss": 0.3})
        ledger.record_step(1, {"loss": 0.2})
        assert ledger.step(1) == {"loss": 0.2}
        assert ledger.step_numbers() == [1, 2]
