"""The Docker sandbox's guest, as a plain process: its loop and its protocol need no container."""

import marshal
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from palaestra.sandboxes._docker import containers
from palaestra.sandboxes._driver.sessions import PYTHON
from palaestra.sandboxes._inside.job import WINDOW
from palaestra.sandboxes._inside.pages import CHUNK
from palaestra.sandboxes._inside.wire import LENGTHS, MARSHAL_VERSION, request, weight


def pythons() -> list[str]:
    """The interpreter of this process, and older ones: version managers keep them side by side."""
    found = [sys.executable]
    for minor in (8, 9, 10):
        for path in sorted(Path(sys.base_prefix).parent.glob(f"*3.{minor}.*/bin/python3")):
            found.append(str(path))
    return found


class Reply(NamedTuple):
    channel: int
    words: list[bytes]
    payload: bytes


class Ending(NamedTuple):
    status: bytes
    exit_code: bytes
    stdout: bytes
    stderr: bytes


class Guest:
    """A guest process and the driver's side of its protocol."""

    def __init__(self, workspace: Path, python: str = sys.executable) -> None:
        self.process = subprocess.Popen(
            [python, *containers.guest_command()[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._channels = count(1)
        opening = {"workspace": str(workspace), "uid": os.getuid(), "gid": os.getgid(), "cpus": 1}
        self.send({**opening, "memory_mb": 1 << 10, "pids": 100, "preload": [], "has_network": False})
        self.missing_walls = self.receive().payload.split(b"\0")

    def send(self, head: dict[str, Any], payload: bytes = b"") -> int:
        assert self.process.stdin
        channel = next(self._channels)
        self.process.stdin.write(request(channel, head, len(payload)) + payload)
        self.process.stdin.flush()
        return channel

    def receive(self) -> Reply:
        assert self.process.stdout
        channel, head_size, size = LENGTHS.unpack(self.process.stdout.read(LENGTHS.size))
        words = self.process.stdout.read(head_size).split(b" ")
        return Reply(channel, words, self.process.stdout.read(size))

    def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        more_stdin: bool = False,
        kind: str = "run",
        timeout_s: float | None = 20.0,
        output_limit: int = 100,
        env: dict[str, str] | None = None,
    ) -> int:
        command = marshal.dumps((argv, env or {}, "."), MARSHAL_VERSION)
        head = {"op": "run", "kind": kind, "command_size": len(command), "more_stdin": more_stdin}
        return self.send({**head, "timeout_s": timeout_s, "output_limit": output_limit}, command + stdin)

    def ending(self, channel: int) -> Ending:
        """Of a run, which is the only one under way."""
        out, end = self.receive(), self.receive()
        assert (out.channel, out.words, end.channel, end.words[0]) == (channel, [b"out"], channel, b"exit")
        return Ending(end.words[1], end.words[2], out.payload, end.payload)

    def outcome(self, *argv: str, **options: Any) -> Ending:
        return self.ending(self.run(*argv, **options))

    def feed(self, job: int, data: bytes, *, is_last: bool = False) -> None:
        fed = self.send({"op": "feed", "job": job, "is_last": is_last}, data)
        assert self.receive() == (fed, [b"ok"], b"")

    def receive_beside(self, run: int) -> list[Reply]:
        """What comes from others until a run has ended."""
        replies: list[Reply] = []
        while (reply := self.receive()).channel != run or reply.words[0] != b"exit":
            replies += [reply] if reply.channel != run else []
        return replies

    def read_all(self, job: int, unread: list[Reply]) -> dict[bytes, bytes]:
        """Acknowledge what a job wrote, to its end: the streams by their numbers."""
        streams: dict[bytes, bytes] = {}
        while reply := unread.pop(0) if unread else self.receive():
            assert reply.channel == job
            if reply.words[0] == b"exit":
                break
            streams[reply.words[1]] = streams.get(reply.words[1], b"") + reply.payload
            self.send({"op": "ack", "job": job, "size": weight(len(reply.payload))})
        return streams

    def ask(self, op: str, path: str, payload: bytes = b"", **fields: Any) -> tuple[bytes, bytes]:
        channel = self.send({"op": op, "path": path, **fields}, payload)
        reply = self.receive()
        assert reply.channel == channel
        return reply.words[0], reply.payload

    def leave(self) -> int:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        try:
            return self.process.wait(10)
        finally:
            self.process.stdout.close()


@pytest.fixture
def guest(tmp_path: Path) -> Generator[Guest, None, None]:
    guest = Guest(tmp_path)
    yield guest
    if guest.process.poll() is None:
        guest.leave()


def test_a_program_gets_its_environment_and_its_end_is_told(guest: Guest) -> None:
    script = 'printf "$COLOUR"; printf oh >&2; exit 3'
    end = guest.outcome("sh", "-c", script, env={"COLOUR": "green=blue"})
    assert end == (b"nonzero", b"3", b"green=blue", b"oh")
    assert guest.outcome("sh", "-c", "kill -9 $$")[:2] == (b"killed", b"-")
    assert guest.outcome("python3", "-c", "print(6 * 7)") == (b"ok", b"0", b"42\n", b"")


def test_a_program_that_cannot_start_says_so_like_a_shell(guest: Guest) -> None:
    words = b"sandbox: no-such-program: No such file or directory\n"
    assert guest.outcome("no-such-program") == (b"nonzero", b"127", b"", words)
    assert guest.outcome("/")[1] == b"126"


def test_stdin_comes_in_parts_each_of_which_is_acknowledged(guest: Guest) -> None:
    channel = guest.run("wc", "-c", stdin=b"x" * 10, more_stdin=True)
    guest.feed(channel, b"y" * CHUNK)
    guest.feed(channel, b"", is_last=True)
    assert int(guest.ending(channel).stdout) == 10 + CHUNK


def test_a_program_that_reads_no_stdin_is_not_fed_and_late_requests_are_passed_over(guest: Guest) -> None:
    channel = guest.run("true", stdin=b"x" * (1 << 20), more_stdin=True)
    assert guest.ending(channel)[:2] == (b"ok", b"0")
    guest.feed(channel, b"late")
    guest.send({"op": "cancel", "job": channel})
    guest.send({"op": "ack", "job": channel, "size": 5})
    assert guest.outcome("cat") == (b"ok", b"0", b"", b"")


def test_the_deadline_and_the_driver_can_end_a_program(guest: Guest) -> None:
    end = guest.outcome("sh", "-c", "trap '' TERM INT; echo up; sleep 60", timeout_s=0.5)
    assert end == (b"timeout", b"-", b"up\n", b"")
    channel = guest.run("sh", "-c", "read line; sleep 60", more_stdin=True)
    guest.feed(channel, b"line\n")  # so it has started
    guest.send({"op": "cancel", "job": channel})
    assert guest.ending(channel).status == b"killed"


def test_a_program_that_ended_in_time_is_not_late_because_its_guest_was(guest: Guest) -> None:
    channel = guest.run("sleep", "0.3", timeout_s=0.8)
    program = Path(f"/proc/{guest.process.pid}/task/{guest.process.pid}/children")
    poll_until(lambda: bool(program.read_text()))
    started = time.monotonic()
    stat = Path(f"/proc/{program.read_text().strip()}/stat")
    guest.process.send_signal(signal.SIGSTOP)  # as on a machine that has no time for it
    poll_until(lambda: ") Z " in stat.read_text() and time.monotonic() > started + 0.8)
    guest.process.send_signal(signal.SIGCONT)
    assert guest.ending(channel).status == b"ok"


def poll_until(condition: Callable[[], bool]) -> None:
    """Fails after ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_s_output_waits_for_whoever_reads_it(guest: Guest) -> None:
    job = guest.run("sh", "-c", "yes | head -c 3000000; printf end >&2", kind="job")
    unread = [guest.receive()]
    while sum(len(reply.payload) for reply in unread) < WINDOW:
        unread.append(guest.receive())
    unread += guest.receive_beside(guest.run("sleep", "0.3"))
    assert sum(len(reply.payload) for reply in unread) < WINDOW + CHUNK
    assert guest.read_all(job, unread) == {b"1": b"y\n" * 1_500_000, b"2": b"end"}


def test_many_small_chunks_fill_the_window_before_their_bytes_do(guest: Guest) -> None:
    code = "import os, time\nfor _ in range(600): os.write(1, b'x'); time.sleep(0.001)"
    job = guest.run("python3", "-c", code, kind="job")
    unread = guest.receive_beside(guest.run("sleep", "1.5"))
    assert sum(reply.payload == b"x" for reply in unread) <= 256  # where a window is 256 KiB
    assert guest.read_all(job, unread) == {b"1": b"x" * 600}


def test_a_closed_stdin_ends_the_guest_and_its_programs(guest: Guest) -> None:
    guest.run("sleep", "60", kind="job")
    children = Path(f"/proc/{guest.process.pid}/task/{guest.process.pid}/children")
    poll_until(lambda: bool(children.read_text()))
    program = children.read_text().strip()
    assert guest.leave() == 0
    poll_until(lambda: not Path("/proc", program).exists())


def test_walls_that_a_plain_process_does_not_have_are_named(guest: Guest) -> None:
    assert b"read-only root" in guest.missing_walls


def test_files_go_in_and_out_in_parts(guest: Guest) -> None:
    content = b"1" * CHUNK + b"2"
    assert guest.ask("write", "a/b", content[:CHUNK]) == (b"ok", b"")
    assert guest.ask("append", "a/b", content[CHUNK:]) == (b"ok", b"")
    for at, expected in ((0, content[:CHUNK]), (CHUNK, b"2")):
        assert guest.ask("read", "a/b", at=at, max_bytes=1_000_000, most=CHUNK) == (b"ok", expected)
    assert guest.ask("read", "a/b", at=0, max_bytes=100, most=CHUNK)[0] == b"refused"
    assert guest.ask("list", ".") == (b"ok", b"a/")
    assert guest.ask("remove", "a") == (b"ok", b"")
    assert guest.ask("freeze", ".")[0] == b"refused"


def test_the_content_of_a_refused_file_is_passed_over(guest: Guest) -> None:
    assert guest.ask("write", "../x", b"content")[0] == b"refused"
    assert guest.ask("append", "none", b"content")[0] == b"refused"
    assert guest.ask("list", ".") == (b"ok", b"")


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parts[-3])
def test_the_whole_guest_runs_on_every_python_that_is_at_hand(python: str, tmp_path: Path) -> None:
    guest = Guest(tmp_path, python)
    try:
        forked = guest.outcome(python, "-c", "import sys; print(sys.argv, __name__)", "a")
        assert forked == (b"ok", b"0", b"['-c', 'a'] __main__\n", b"")
        assert guest.outcome("cat", stdin=b"x" * 90).stdout == b"x" * 90
        assert guest.ask("write", "a.py", b"import sys; sys.exit(len(sys.stdin.read()))") == (b"ok", b"")
        assert guest.outcome(python, "a.py", stdin=b"four").exit_code == b"4"
        assert guest.ask("read", "a.py", at=0, max_bytes=99, most=6) == (b"ok", b"import")
        job = guest.run(
            "sh", "-c", "(setsid sleep 60 &); read line; echo $line; exit 3", kind="job", more_stdin=True
        )
        assert guest.outcome("true").status == b"ok"
        guest.feed(job, b"hello\n", is_last=True)
        assert guest.receive() == (job, [b"data", b"1"], b"hello\n")
        assert guest.receive().words[:3] == [b"exit", b"nonzero", b"3"]
        session = guest.run(python, *PYTHON.argv[1:], kind="session", more_stdin=True)
        guest.feed(session, PYTHON.order("a-nonce", "x = 6\nx * 7"))
        replies = [guest.receive()]
        while replies[-1].words == [b"data", b"1"]:
            replies.append(guest.receive())
        assert b"".join(reply.payload for reply in replies[:-1]) == b"42\n"
        assert replies[-1] == (session, [b"data", b"3"], b"a-nonce 0\0")
    finally:
        assert guest.leave() == 0
