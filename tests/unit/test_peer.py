"""Programs that speak JSON lines, and those that do not."""

import asyncio
import os
import re
import sys
import time
from collections.abc import Generator
from typing import Any

import pytest
from support import run_async

from palaestra.envs.adapters import peer as peers
from palaestra.envs.adapters.errors import PeerLost
from palaestra.envs.adapters.peer import Peer, Talk, ask_now

ECHOES = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
DEAF = "import time\ntime.sleep(100)"
SAYS = """
import sys
for _ in "12":
    sys.stdin.readline()
sys.stdout.buffer.write({} + b"\\n")
sys.stdout.flush()
"""


@pytest.fixture(autouse=True)
def no_program_stays(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setattr(peers, "END_S", 0.5)
    yield
    Peer.end_all()


def program(code: str) -> Peer:
    return Peer.of(sys.executable, "-c", code)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_conversations_share_a_program_and_each_hears_its_own() -> None:
    async def main() -> list[dict[str, Any]]:
        peer = program(ECHOES)
        assert program(ECHOES) is peer
        return await asyncio.gather(*(Talk(peer).ask(said=f"ü{number}") for number in range(20)))

    assert run_async(main()) == [{"said": f"ü{number}"} for number in range(20)]
    assert ask_now(program(ECHOES), timeout_s=30, said=1) == {"said": 1}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("b'hello'", "it said b'hello"),
        ("b'[1]'", "it is no object"),
        ("b'{\"said\": 1}'", "it has no number of a talk"),
        ('b\'{"talk": "one"}\'', "it has no number of a talk"),
        ("bytes([255, 254])", "it said b"),
        ("b'[' * 100_000", "it said b"),
        ("b''", r"it said b'\\n'"),
    ],
)
def test_a_line_that_cannot_be_read_ends_the_program_for_all_who_wait(line: str, why: str) -> None:
    code = SAYS.format(line) + DEAF

    async def main() -> list[dict[str, Any] | BaseException]:
        async with asyncio.timeout(30):
            talks = (Talk(peer), Talk(peer))
            return await asyncio.gather(*(talk.ask(do="it") for talk in talks), return_exceptions=True)

    peer = program(code)
    for error in run_async(main()):
        assert isinstance(error, PeerLost) and re.search(f"ended, because .*{why}", str(error)), error
    assert not is_running(peer.pid)
    assert program(code) is not peer


@pytest.mark.parametrize(
    "code",
    [
        f"import os\nos.close(1)\n{DEAF}",
        f"import os\nos.close(0)\nprint('{{\"talk\": 1}}', flush=True)\n{DEAF}",
        "print('{\"talk\": 1, \"sa', end='')",
        "raise SystemExit(3)",
    ],
    ids=["says no more", "reads no more", "ends in the middle of a line", "ends"],
)
def test_a_program_that_has_gone_silent_for_good_is_ended_and_told_of(code: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            talk = Talk(peer)
            for _ in range(2):
                await talk.ask(do="it")

    peer = program(code)
    with pytest.raises(PeerLost, match=r"ended with (-9|0|3)"):
        run_async(main())
    assert not is_running(peer.pid)
    with pytest.raises(PeerLost):
        ask_now(peer, timeout_s=30, do="it")


def test_a_program_that_does_not_read_holds_up_nobody_else() -> None:
    """What it is told is more than its pipe takes."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        talk = Talk(deaf)
        asking = asyncio.create_task(talk.ask(text="x" * 10_000_000))
        started = loop.time()
        assert await Talk(program(ECHOES)).ask(said=1) == {"said": 1}
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        talk.close(do="drop")
        return loop.time() - started

    deaf = program(DEAF)
    assert run_async(main()) < 20
    started = time.monotonic()
    deaf.end()
    assert time.monotonic() - started < 20 and not is_running(deaf.pid)
