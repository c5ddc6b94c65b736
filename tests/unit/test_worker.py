"""Worker processes: reuse, death, kill, and plain environments played in them."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from plain_envs import PlainCounter, PlainStep, hang_with_a_child, throw
from support import ROOT, run_async

from palaestra.envs import Budget, Env, Episode, ScriptedPolicy, StopReason, Task, play
from palaestra.envs.errors import CodeExited, CodePanicked
from palaestra.envs.worker import Worker, WorkerDied, in_worker
from palaestra.envs.worker_env import adopt

TASK = Task(id="t")


@pytest.fixture(autouse=True)
def no_worker_stays() -> Generator[None, None, None]:
    yield
    Worker.end_idle()


def run(*lines: str, env: Env[Task] | None = None, budget: Budget | None = None) -> Episode:
    return run_async(play(env or PlainCounter(), ScriptedPolicy(lines), TASK, seed=7, budget=budget))


def is_alive(pid: int) -> bool:
    """Also while only threads of it are left: they may still hold its files open."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return not ("\nState:\tZ" in status and "\nThreads:\t1\n" in status)
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_exists(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"nobody made {path}"
        time.sleep(0.01)


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} still lives"
        time.sleep(0.01)


def test_a_process_is_used_again_and_is_not_ours() -> None:
    async def main() -> tuple[int, int]:
        return await in_worker(os.getpid), await in_worker(os.getpid)

    first, second = run_async(main())
    assert first == second != os.getpid()
    assert run_async(in_worker(os.getpid)) == first  # also from another event loop


def test_an_error_comes_back_as_itself_with_the_far_traceback() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        run_async(in_worker(os.listdir, "/nowhere"))
    assert "_serve" in "".join(caught.value.__notes__)


def test_an_exit_in_the_process_is_an_error_and_the_process_lives_on() -> None:
    async def main() -> tuple[int, int]:
        before = await in_worker(os.getpid)
        with pytest.raises(CodeExited, match=r"sys.exit\(3\)"):
            await in_worker(sys.exit, 3)
        return before, await in_worker(os.getpid)

    before, after = run_async(main())
    assert before == after


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_what_would_end_a_main_thread_ends_no_process_and_prints_nothing(
    kind: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> tuple[int, int]:
        before = await in_worker(os.getpid)
        with pytest.raises(CodePanicked, match=kind.__name__):
            await in_worker(throw, kind)
        return before, await in_worker(os.getpid)

    before, after = run_async(main())
    assert before == after and capfd.readouterr() == ("", "")


def test_a_process_of_foreign_code_serves_nobody_else() -> None:
    async def pid(worker: Worker) -> int:
        try:
            return await worker.call(os.getpid)
        finally:
            worker.release()

    async def main() -> list[int]:
        return [await pid(Worker.hire(is_foreign=is_foreign)) for is_foreign in (True, False, True, False)]

    theirs, ours, *again = run_async(main())
    assert theirs != ours and again == [theirs, ours]


def test_a_function_that_cannot_travel_is_refused_here() -> None:
    with pytest.raises(Exception, match="pickle"):
        run_async(in_worker(lambda: 1))


def test_a_dead_process_is_named_and_replaced() -> None:
    async def main() -> int:
        with pytest.raises(WorkerDied, match="exit code 3"):
            await in_worker(os._exit, 3)
        return await in_worker(os.getpid)

    assert run_async(main()) > 0


def test_an_idle_process_that_died_is_not_hired() -> None:
    async def main() -> tuple[int, int]:
        first = await in_worker(os.getpid)
        os.kill(first, 9)
        await asyncio.to_thread(wait_until_gone, first)
        return first, await in_worker(os.getpid)

    first, second = run_async(main())
    assert first != second


def test_cancelling_kills_the_process_and_its_children(tmp_path: Path) -> None:
    async def main() -> int:
        path = tmp_path / "pid"
        call = asyncio.create_task(in_worker(hang_with_a_child, str(path)))
        await asyncio.to_thread(wait_until_exists, path)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return int(path.read_text())

    wait_until_gone(run_async(main()))


def test_an_ended_process_leaves_no_file_open() -> None:
    def num_open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    run_async(in_worker(os.getpid))
    Worker.end_idle()
    before = num_open_files()
    run_async(in_worker(os.getpid))
    Worker.end_idle()
    assert num_open_files() == before


def test_a_plain_environment_plays_in_another_process() -> None:
    episode = run("a", "end", env=PlainCounter(start=10))
    first, *_ = episode.messages
    assert first.content.endswith("seed 7") and first.content != f"pid {os.getpid()} seed 7"
    assert [message.content for message in episode.messages[1:]] == ["a", "count 11", "end", "count 12"]
    assert episode.stop is StopReason.DONE and episode.rewards == (0.5, 0.5)
    assert episode.workspace is not None and episode.workspace.files == (("count", b"12"),)
    assert episode.env_info == (("count", "12"),)


def test_an_environment_with_one_plain_method_works() -> None:
    assert run("x", env=PlainStep()).rewards == (1.0,)


def test_an_async_environment_stays_where_it_is() -> None:
    env = Env[Task]()
    assert adopt(env) is env


def test_two_plain_environments_at_once_do_not_meet() -> None:
    async def main() -> list[Episode]:
        plays = (
            play(PlainCounter(start), ScriptedPolicy(["a", "b", "end"]), TASK, seed=start)
            for start in (0, 100)
        )
        return await asyncio.gather(*plays)

    low, high = run_async(main())
    assert (low.messages[-1].content, high.messages[-1].content) == ("count 3", "count 103")
    assert low.messages[0].content.split()[1] != high.messages[0].content.split()[1]


def test_a_crash_of_the_process_is_a_failure_to_retry() -> None:
    episode = run("a", "exit")
    assert episode.failure is not None
    assert (episode.failure.stage, episode.failure.cause, episode.failure.retryable) == (
        "step",
        "WorkerDied",
        True,
    )


def test_an_error_in_the_process_keeps_its_kind() -> None:
    episode = run("raise")
    assert episode.failure is not None and episode.failure.cause == "KeyError"
    episode = run("unpicklable")
    assert episode.failure is not None and "Unpicklable" in episode.failure.message


@pytest.mark.parametrize(
    ("budget", "stop"),
    [(Budget(env_s=0.5), StopReason.ENV_SECONDS), (Budget(wall_s=2.0), StopReason.WALL)],
)
def test_a_step_that_hangs_is_killed_by_the_budget(budget: Budget, stop: StopReason) -> None:
    run("end")  # a worker is warm now, so that the wall's seconds go to the step
    episode = run("a", "hang", budget=budget)
    assert episode.stop is stop
    assert episode.workspace is None
    wait_until_gone(int(episode.messages[0].content.split()[1]))


def test_a_class_that_cannot_move_is_told_the_cure() -> None:
    class Local(PlainCounter):
        pass

    episode = run(env=Local())
    assert episode.failure is not None and not episode.failure.retryable
    assert "define it at the top of a module, or make reset, step and close `async def`" in (
        episode.failure.message
    )


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """A hung call hears nothing from its link: another thread watches the parent."""
    path = tmp_path / "pid"
    code = (
        "import asyncio\nfrom palaestra.envs.worker import in_worker\nfrom plain_envs import hang\n"
        f"if __name__ == '__main__': asyncio.run(in_worker(hang, {str(path)!r}))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "tests"), "PYTHONSAFEPATH": "1"}
    )
    with parent:
        wait_until_exists(path)
        parent.kill()
    wait_until_gone(int(path.read_text()))
