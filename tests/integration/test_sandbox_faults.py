"""Sandboxes that fail on purpose: the plan, and what callers and environments meet."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest
from embedded_box import need
from support import run_async

from palaestra.envs import Failed, ScriptedPolicy, Task, UserMessage, call_tool, play, tool
from palaestra.envs.faults import Fault, FaultySandboxTools
from palaestra.envs.graders.grading import StepRewards
from palaestra.envs.sandboxed import SandboxToolEnv
from palaestra.sandboxes import SandboxFileError, SandboxLost
from palaestra.sandboxes.faults import Faults, FaultySandbox, SandboxFault, open_faulty_sandbox

HELLO = ["python3", "-c", "print(6 * 7)"]


@pytest.fixture(autouse=True)
def _a_tier() -> None:
    need("namespaces")


def with_box(faults: Faults, part: Callable[[FaultySandbox], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        async with open_faulty_sandbox(faults, **options) as box:
            await part(box)

    run_async(whole())


def test_a_sandbox_dies_at_the_call_that_was_planned_and_stays_dead() -> None:
    faults = Faults(seed=0, at={SandboxFault.DEATH: [3]})

    async def part(box: FaultySandbox) -> None:
        assert (await box.run(HELLO)).stdout == b"42\n"
        await box.write("kept", b"x")
        calls = (box.read("kept"), box.run(HELLO), box.list(), box.shell(), box.start(HELLO))
        for call in calls:
            with pytest.raises(SandboxLost, match=faults.log[0] if faults.log else "sandbox-death-"):
                await call
        assert len(faults.log) == 1

    with_box(faults, part)


def test_lost_output_is_a_result_without_a_word_of_the_program() -> None:
    faults = Faults(seed=0, at={SandboxFault.OUTPUT_LOSS: [2]})

    async def part(box: FaultySandbox) -> None:
        whole, lost, again = [await box.run(HELLO) for _ in range(3)]
        assert (whole.stdout, lost.stdout, again.stdout) == (b"42\n", b"", b"42\n")
        assert lost.ok and lost.wall_s > 0 and len(faults.log) == 1

    with_box(faults, part)


def test_a_file_call_is_refused_and_the_next_one_is_not() -> None:
    faults = Faults(seed=0, at={SandboxFault.REFUSAL: [1]})

    async def part(box: FaultySandbox) -> None:
        with pytest.raises(SandboxFileError, match=r"'a': refused on purpose: sandbox-refusal-[0-9a-f]{12}"):
            await box.write("a", b"x")
        await box.write("a", b"y")
        assert await box.read("a") == b"y" and await box.list() == ["a"]

    with_box(faults, part)


def test_a_program_that_hangs_is_given_up_after_its_limit_or_tells_who_cancels() -> None:
    async def whole() -> None:
        for is_cancelled in (False, True):
            faults = Faults(seed=0, at={SandboxFault.HANG: [1]})
            async with open_faulty_sandbox(faults) as whole_box:
                box = FaultySandbox(whole_box, faults, seed=1, hang_s=0.1)
                running = asyncio.create_task(box.run(HELLO, timeout_s=60 if is_cancelled else 0.1))
                if is_cancelled:
                    await asyncio.sleep(0)
                    running.cancel()
                    with pytest.raises(asyncio.CancelledError) as caught:
                        await running
                    assert caught.value.__notes__ == faults.log
                else:
                    with pytest.raises(SandboxLost, match=r"no answer in 0\.2 s: sandbox-hang-"):
                        await running
                    with pytest.raises(SandboxLost):
                        await box.list()

    run_async(whole())


def test_a_slow_start_delays_the_first_call_only() -> None:
    faults = Faults(seed=0, rates={SandboxFault.SLOW_START: 1.0})

    async def whole() -> None:
        async with open_faulty_sandbox(Faults(seed=0)) as inner:
            box, clock = FaultySandbox(inner, faults, slow_s=0.3), asyncio.get_running_loop().time
            started = clock()
            await box.list()
            assert clock() - started >= 0.3
            await box.list()
            assert len(faults.log) == 1

    run_async(whole())


def test_one_plan_holds_faults_of_sandboxes_and_of_tools() -> None:
    faults = Faults(seed=0, rates={SandboxFault.DEATH: 0.5, Fault.TOOL_CRASH: 0.5})
    struck = [
        faults.strike(kind, seed) for seed in range(100) for kind in (SandboxFault.DEATH, Fault.TOOL_CRASH)
    ]
    assert 60 < len(faults.log) < 140
    assert faults.log == [fault for fault in struck if fault]


class Boxed(SandboxToolEnv[Task]):
    grader = StepRewards()

    @tool
    async def python(self, code: str) -> str:
        """Run it.

        Args:
            code: a program
        """
        return (await self.run(["python3", "-c", code])).stdout.decode()


class Shaky(FaultySandboxTools[Task], Boxed):
    faults: ClassVar[Faults] = Faults(seed=0, at={SandboxFault.DEATH: [2]})


def test_an_episode_whose_sandbox_dies_is_failed_and_names_the_fault() -> None:
    async def whole() -> None:
        task = Task(id="t", messages=(UserMessage("go"),))
        policy = ScriptedPolicy(
            [call_tool("python", code="print(1)"), call_tool("python", code="print(2)"), "done"]
        )
        episode = await play(Shaky(), policy, task, seed=3)
        assert isinstance(episode.failure, Failed)
        assert Shaky.faults.log[0] in episode.failure.message

    run_async(whole())


def test_a_fork_has_the_files_and_faults_of_the_same_plan() -> None:
    faults = Faults(seed=0, at={SandboxFault.DEATH: [3]})

    async def part(box: FaultySandbox) -> None:
        await box.write("file", b"x")
        twin = await box.fork()
        with pytest.raises(SandboxLost, match="sandbox-death-"):
            await twin.read("file")
        await twin.close()
        assert await box.read("file") == b"x"

    with_box(faults, part)
