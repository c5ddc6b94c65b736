"""Reward functions of a file run in worker processes: what they break is theirs, what they say arrives."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until_gone
from rewards import episode, write
from support import run_async

from palaestra.envs import Score, Scored, Task, Ungraded, UserMessage
from palaestra.envs.crew import FEW
from palaestra.envs.errors import EpisodeFailed
from palaestra.envs.graders import Grader, NamedReward, grade_episode, load_reward
from palaestra.envs.graders.grading import ask
from palaestra.envs.worker import Worker

TASK = Task(id="7", messages=(UserMessage("2 + 2 = ?"),), reference="4")
PID = "import os\ndef score(completion): return {'score': 1.0, 'pid': os.getpid()}\n"


@pytest.fixture(autouse=True, scope="module")
def no_worker_stays() -> Generator[None, None, None]:
    yield
    Worker.end_idle()


def reward(folder: Path, code: str, **options: Any) -> Grader:
    return load_reward(f"{write(folder, code, 'my_rewards.py')}:score", **options)


def grade(grader: Grader, *said: str, task: Task = TASK, timeout_s: float = 60.0) -> list[Any]:
    """The outcomes of episodes that said these, graded at the same time."""

    async def main() -> list[Any]:
        grades = (grade_episode(grader, task, episode(text), timeout_s=timeout_s) for text in said)
        return await asyncio.gather(*grades)

    return run_async(main())


def reason(outcome: Any) -> str:
    assert isinstance(outcome, Ungraded), outcome
    return outcome.reason


def pid(outcome: Any) -> int:
    assert isinstance(outcome, Scored), outcome
    return int(outcome.components["pid"])


def test_calls_share_a_process_that_is_not_ours(tmp_path: Path) -> None:
    grader = reward(tmp_path, PID)
    (first,), (second,) = grade(grader, "4"), grade(grader, "4")
    assert pid(first) == pid(second) != os.getpid()


@pytest.mark.parametrize(
    "code",
    [
        "def score(completion): assert threading.current_thread() is threading.main_thread(); return 1",
        "async def score(completion): await asyncio.sleep(0); return 1",
        "score = lambda completion: 1",
        "class Judge:\n    def __call__(self, completion): return 1\nscore = Judge()",
        "class Own(Score): pass\ndef score(completion): return Own(reward=1)",
        "from functools import partial\ndef _s(n, completion): return n\nscore = partial(_s, 1)",
        "def score(completion):\n    twin = multiprocessing.Process(target=print)\n    twin.start()\n"
        "    twin.join()\n    return twin.exitcode == 0",
    ],
)
def test_what_a_file_calls_by_a_name_runs_there(tmp_path: Path, code: str) -> None:
    imports = "import asyncio, multiprocessing, threading\nfrom palaestra.envs import Score\n"
    (outcome,) = grade(reward(tmp_path, imports + code), "4")
    assert outcome == Scored(reward=1.0)


def test_math_verify_works_there(tmp_path: Path) -> None:
    pytest.importorskip("math_verify", reason="needs the extra `catalog`")
    code = (
        "from math_verify import parse, verify\n"
        "def score(completion, reference): return verify(parse(reference), parse(completion))\n"
    )
    outcomes = grade(reward(tmp_path, code), "it is $\\frac{8}{2}$", "5")
    assert [outcome.reward for outcome in outcomes] == [1.0, 0.0]


@pytest.mark.parametrize(("kind", "limit"), [("def", "the grader's"), ("async def", "the call's")])
def test_a_function_that_hangs_is_killed_with_its_children_and_the_others_are_graded(
    tmp_path: Path, kind: str, limit: str
) -> None:
    code = (
        "import os, subprocess\n"
        f"{kind} score(completion):\n"
        "    if completion != 'hang':\n        return 1.0\n"
        "    subprocess.Popen(['sleep', '600'])\n"
        f"    open({str(tmp_path / 'group')!r}, 'w').write(str(os.getpid()))\n"
        "    while True: pass\n"
    )
    options = {"timeout_s": 1.5} if limit == "the call's" else {}
    grader = reward(tmp_path, code, **options)
    grade(grader, "4", "4")  # the limit is not for the start of processes
    first, hung, last = grade(grader, "4", "hang", "4", timeout_s=60.0 if options else 2.5)
    assert first == last == Scored(reward=1.0)
    told = "my_rewards.py gave no reply within 1.5 s" if options else "timeout: the grader took over 2.5 s"
    assert told in reason(hung)
    wait_until_gone(int((tmp_path / "group").read_text()))
    assert grade(grader, "4") == [Scored(reward=1.0)]


@pytest.mark.parametrize(
    ("end", "code"), [("os._exit(0)", 0), ("os.kill(os.getpid(), 9)", -9), ("os.abort()", -6)]
)
def test_a_function_that_ends_its_process_costs_its_own_sample(tmp_path: Path, end: str, code: int) -> None:
    lines = f"import os\ndef score(completion):\n    if completion == 'end': {end}\n    return 1.0\n"
    grader = reward(tmp_path, lines)
    first, ended, last = grade(grader, "4", "end", "4")
    assert first == last == Scored(reward=1.0)
    assert f"my_rewards.py took its process down: worker process ended with exit code {code}" in reason(ended)
    assert grade(grader, "4") == [Scored(reward=1.0)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("raise ValueError(f'expected {reference}')", "ValueError: expected 4, in my_rewards.py, line 5"),
        ("raise Own('odd')", "Own: odd, in my_rewards.py, line 5"),
        ("raise Mute", "Mute: (no text: its __str__ raised ValueError), in my_rewards.py, line 5"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: , in my_rewards.py, line 5"),
        ("raise SystemExit(0)", "SystemExit: 0, in my_rewards.py, line 5"),
        ("raise __import__('asyncio').CancelledError", "CancelledError: , in my_rewards.py, line 5"),
        ("raise TimeoutError('a server')", "TimeoutError: a server, in my_rewards.py, line 5"),
        ("return None", "TypeError: the reward is None; it must be a finite number"),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_exception_keeps_its_words_and_the_process_lives_on(
    tmp_path: Path, kind: str, line: str, words: str
) -> None:
    code = (
        "import os\nclass Own(BaseException): pass\nclass Mute(Exception): __str__ = lambda self: 1 / 0\n"
        f"{kind} score(completion, reference):\n    {line}\n"
    ).replace("lambda self: 1 / 0", "lambda self: int('x')")
    (outcome,) = grade(reward(tmp_path, code), "4")
    assert reason(outcome) == f"crash: RewardFailed: {words}"
    (before,), (after,) = grade(reward(tmp_path, PID), "4"), grade(reward(tmp_path, PID), "4")
    assert pid(before) == pid(after)


@pytest.mark.parametrize(
    ("error", "is_retryable"), [("ConnectionError()", True), ("TypeError()", False), ("SystemExit()", False)]
)
def test_what_a_second_try_may_mend_is_told_apart(tmp_path: Path, error: str, is_retryable: bool) -> None:
    grader = reward(tmp_path, f"def score(completion): raise {error}")
    with pytest.raises(EpisodeFailed) as caught:
        run_async(ask(grader, TASK, [episode("4")]))
    assert caught.value.failed.retryable is is_retryable


def test_evidence_of_tampering_is_the_floor(tmp_path: Path) -> None:
    code = "from palaestra.envs import Tampered\ndef score(completion): raise Tampered('it read the key')"
    assert grade(reward(tmp_path, code), "4") == [Scored(reward=0.0, evidence="tampered: it read the key")]


def test_what_a_function_prints_comes_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import os\n"
        "def score(completion):\n"
        "    print('a line')\n    print('a part', end='')\n"
        "    if completion == 'end': print('\\nthe last words'); os._exit(0)\n"
        "    return 1.0\n"
    )
    Worker.end_idle()  # those that are there print to where they were started
    assert isinstance(grade(reward(tmp_path, code), "4")[0], Scored)
    assert "a line\na part" in capfd.readouterr().out
    grade(reward(tmp_path, code), "end")
    assert "the last words\n" in capfd.readouterr().out


def test_a_module_sees_our_folder_and_our_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os\nfrom worth import WORTH\n"
        "def score(completion):\n"
        "    from more import MORE\n    return WORTH + MORE + float(open('here').read())\n"
    )
    write(tmp_path, "WORTH = 0.25", "worth.py")
    later = tmp_path / "later"
    later.mkdir()
    write(later, "MORE = 0.125", "more.py")
    (later / "here").write_text("0.5")
    grader = reward(tmp_path, code)
    assert "No module named 'more'" in reason(grade(grader, "4")[0])  # the process is there now
    monkeypatch.setattr(sys, "path", [str(later), *sys.path])
    monkeypatch.chdir(later)
    assert grade(grader, "4") == [Scored(reward=0.875)]


def test_a_run_keeps_the_file_as_it_was_when_it_began(tmp_path: Path) -> None:
    before = reward(tmp_path, "def score(completion): return 0.25")
    assert grade(before, "4") == [Scored(reward=0.25)]
    after = reward(tmp_path, "def score(completion): return 0.5")
    assert [grade(each, "4")[0].reward for each in (before, after, before)] == [0.25, 0.5, 0.25]


def test_calls_that_wait_long_get_more_processes(tmp_path: Path) -> None:
    """One more must meet than there are at first."""
    code = (
        "import os, pathlib, time\n"
        "def score(completion):\n"
        f"    met = pathlib.Path({str(tmp_path / 'met')!r})\n"
        "    met.mkdir(exist_ok=True)\n    (met / str(os.getpid())).touch()\n"
        f"    while len(list(met.iterdir())) <= {FEW}: time.sleep(0.01)\n"
        "    return 1.0\n"
    )
    said = ["4"] * (FEW + 1)
    assert grade(reward(tmp_path, code), *said) == [Scored(reward=1.0)] * len(said)


def test_no_more_processes_work_than_allowed(tmp_path: Path) -> None:
    code = PID.replace("return", "__import__('time').sleep(0.3); return")
    outcomes = grade(reward(tmp_path, code, concurrency=1), *"4444")
    assert len({pid(outcome) for outcome in outcomes}) == 1


def test_a_grade_that_got_no_process_says_so(tmp_path: Path) -> None:
    endless = reward(tmp_path, "def score(completion):\n    while True: pass", concurrency=1)

    async def main() -> Any:
        grades = (grade_episode(endless, TASK, episode("4"), timeout_s=limit_s) for limit_s in (2.0, 1.0))
        return (await asyncio.gather(*grades))[1]

    told = "timeout: the grader took over 1 s; it waited for one of 1 worker processes"
    assert reason(run_async(main())) == told


def test_a_fork_that_comes_back_answers_nothing(tmp_path: Path) -> None:
    code = "import os\ndef score(completion):\n    os.fork()\n    return float(completion)\n"
    grader = reward(tmp_path, code, concurrency=1)
    said = [f"0.{number}" for number in range(1, 9)]
    assert [outcome.reward for outcome in grade(grader, *said)] == [float(text) for text in said]


def test_what_cannot_travel_is_told(tmp_path: Path) -> None:
    task = Task(id="t", metadata={"lock": threading.Lock(), "n": 1})
    assert grade(reward(tmp_path, "def score(n): return n"), "4", task=task) == [Scored(reward=1.0)]
    (outcome,) = grade(reward(tmp_path, "def score(task): return 1"), "4", task=task)
    assert "the arguments task cannot go to a worker process: cannot pickle" in reason(outcome)


def test_a_function_of_the_running_program_runs_in_it() -> None:
    threads = list[str]()

    def score(completion: str) -> float:
        threads.append(threading.current_thread().name)
        return 1.0

    assert run_async(NamedReward(score).grade(TASK, episode("4"), None)) == Score(reward=1.0)
    assert threads == ["palaestra-call"]


def test_a_program_without_a_guard_is_told_the_cure(tmp_path: Path) -> None:
    write(tmp_path, "def score(completion): return 1.0", "my_rewards.py")
    program = (
        "import asyncio\nfrom palaestra.envs import *\nfrom palaestra.envs.graders import *\n"
        "said = Episode(task_id='t', seed=0, messages=(AssistantMessage('4'),), stop=StopReason.DONE)\n"
        "asyncio.run(load_reward('my_rewards.py:score').grade(Task(id='t'), said, None))\n"
    )
    path = write(tmp_path, program, "program.py")
    done = subprocess.run([sys.executable, "-P", path], cwd=tmp_path, capture_output=True, text=True)
    assert "my_rewards.py cannot run: worker process ended with exit code 1 before it had" in done.stderr
    assert "must stand under `if __name__ == '__main__':`" in done.stderr


def test_a_program_ends_with_all_that_its_functions_have_started(tmp_path: Path) -> None:
    """A process that minds no SIGTERM, and a child of it."""
    code = (
        "import os, signal, subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def score(completion):\n"
        "    subprocess.Popen(['sleep', '600'], stdout=-3)\n    print(os.getpid())\n    return 1.0\n"
    )
    write(tmp_path, code, "my_rewards.py")
    program = (
        "import asyncio\nfrom palaestra.envs import *\nfrom palaestra.envs.graders import *\n"
        "if __name__ == '__main__':\n"
        "    said = Episode(task_id='t', seed=0, messages=(AssistantMessage('4'),), stop=StopReason.DONE)\n"
        "    asyncio.run(grade_episode(load_reward('my_rewards.py:score'), Task(id='t'), said))\n"
    )
    path = write(tmp_path, program, "program.py")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-P", path], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    wait_until_gone(int(done.stdout))
    assert time.monotonic() - started < 30
