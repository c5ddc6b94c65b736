"""The Docker sandbox's guest, as a plain process: its protocol and its file calls need no container."""

import ast
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.sandboxes._docker import containers
from palaestra.sandboxes._docker.frames import CHUNK, pack, unpack
from palaestra.sandboxes._docker.guest_files import Files, Refused


class Guest:
    """A guest process and the driver's side of its protocol."""

    def __init__(self, workspace: Path) -> None:
        command = [sys.executable, *containers.guest_command()[1:]]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        identity = [str(n).encode() for n in (os.getuid(), os.getgid(), 1, 1 << 30, 100)]
        self.send(b"hello", os.fsencode(workspace), *identity, b"COLOUR=green=blue")
        self.missing_walls = self.receive()[1:]

    def send(self, *fields: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(pack(*fields))
        self.process.stdin.flush()

    def receive(self) -> list[bytes]:
        assert self.process.stdout
        (size,) = struct.unpack(">I", self.process.stdout.read(4))
        return unpack(self.process.stdout.read(size))

    def run(self, *argv: str, stdin: bytes = b"", more: bytes = b"0", timeout_s: float = 20) -> None:
        self.send(b"run", str(timeout_s).encode(), b"100", stdin, more, *map(os.fsencode, argv))

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


def ending(frame: list[bytes]) -> tuple[bytes, int, int, bytes, bytes]:
    """How, exit code, signal, stdout, stderr."""
    assert frame[0] == b"exit"
    return frame[1], int(frame[2]), int(frame[3]), frame[11], frame[12]


@given(st.lists(st.binary(max_size=20)))
def test_a_frame_comes_out_as_it_went_in(fields: list[bytes]) -> None:
    frame = pack(*fields)
    assert len(frame) == 4 + struct.unpack(">I", frame[:4])[0]
    assert unpack(frame[4:]) == fields


@given(st.binary(max_size=30))
def test_unpack_says_value_error_and_nothing_else(body: bytes) -> None:
    try:
        fields = unpack(body)
    except ValueError:
        return
    assert pack(*fields)[4:] == body


def test_a_program_gets_its_environment_and_its_end_is_told(guest: Guest) -> None:
    guest.run("sh", "-c", 'printf "$COLOUR"; printf oh >&2; exit 3')
    assert ending(guest.receive()) == (b"ended", 3, 0, b"green=blue", b"oh")
    guest.run("sh", "-c", "kill -9 $$")
    assert ending(guest.receive())[:3] == (b"ended", 0, 9)


def test_a_program_that_cannot_start_says_so_like_a_shell(guest: Guest) -> None:
    guest.run("no-such-program")
    assert ending(guest.receive()) == (b"ended", 127, 0, b"", b"no-such-program: No such file or directory\n")
    guest.run("/")
    assert ending(guest.receive())[1] == 126


def test_stdin_is_asked_for_piece_by_piece_and_ends_with_an_empty_one(guest: Guest) -> None:
    guest.run("wc", "-c", stdin=b"x" * 10, more=b"1")
    assert guest.receive() == [b"stdin"]
    guest.send(b"stdin", b"y" * CHUNK)
    assert guest.receive() == [b"stdin"]
    guest.send(b"stdin", b"")
    assert int(ending(guest.receive())[3]) == 10 + CHUNK


def test_a_program_that_reads_no_stdin_is_not_fed_and_late_frames_are_passed_over(guest: Guest) -> None:
    guest.run("true", stdin=b"x" * CHUNK, more=b"1")
    assert ending(guest.receive())[:2] == (b"ended", 0)
    guest.send(b"stdin", b"late")
    guest.send(b"cancel")
    guest.run("cat")
    assert ending(guest.receive()) == (b"ended", 0, 0, b"", b"")


def test_the_deadline_and_the_driver_can_end_a_program(guest: Guest) -> None:
    guest.run("sh", "-c", "trap '' TERM INT; echo up; sleep 60", timeout_s=0.5)
    assert ending(guest.receive())[:4] == (b"timeout", 0, 9, b"up\n")
    guest.run("sh", "-c", "sleep 60", stdin=b"", more=b"1")
    assert guest.receive() == [b"stdin"]  # so it has started
    guest.send(b"cancel")
    assert ending(guest.receive())[0] == b"cancel"


def test_a_closed_stdin_ends_the_guest(guest: Guest) -> None:
    assert guest.leave() == 0


def test_walls_that_a_plain_process_does_not_have_are_named(guest: Guest) -> None:
    assert b"read-only root" in guest.missing_walls


def test_files_go_in_and_out_in_chunks(guest: Guest) -> None:
    guest.send(b"write", b"a/b")
    guest.send(b"data", b"1" * CHUNK)
    guest.send(b"data", b"2")
    guest.send(b"end")
    assert guest.receive() == [b"ok"]
    guest.send(b"read", b"a/b", b"1000000")
    assert [guest.receive() for _ in range(3)] == [[b"data", b"1" * CHUNK], [b"data", b"2"], [b"ok"]]
    guest.send(b"read", b"a/b", b"100")
    assert guest.receive()[0] == b"refused"
    guest.send(b"list", b".")
    assert guest.receive() == [b"ok", b"a/"]
    guest.send(b"remove", b"a")
    assert guest.receive() == [b"ok"]


def test_the_content_of_a_refused_file_is_passed_over(guest: Guest) -> None:
    guest.send(b"write", b"../x")
    guest.send(b"data", b"content")
    guest.send(b"end")
    assert guest.receive()[0] == b"refused"
    guest.send(b"list", b"")
    assert guest.receive() == [b"ok"]


@pytest.fixture
def files(tmp_path: Path) -> Generator[Files, None, None]:
    root = os.open(tmp_path, os.O_RDONLY)
    yield Files(root)
    os.close(root)


def _read(files: Files, path: bytes) -> None:
    list(files.chunks(path, 100, 10))


def _create(files: Files, path: bytes) -> None:
    os.close(files.create(path))


@pytest.mark.parametrize("call", [_read, _create, Files.names, Files.remove])
@pytest.mark.parametrize("path", [b"/etc/passwd", b"../x", b"a/../../x", b"door/x", b"pipe/x"])
def test_no_call_leaves_the_workspace(
    files: Files, tmp_path: Path, call: Callable[[Files, bytes], None], path: bytes
) -> None:
    (tmp_path / "door").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((Refused, OSError)):
        call(files, path)


@pytest.mark.parametrize("name", [b"link", b"pipe", b"folder", b"."])
def test_only_regular_files_are_read_and_replaced(files: Files, tmp_path: Path, name: bytes) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for call in (_read, _create):
        with pytest.raises((Refused, OSError)):
            call(files, name)
    assert (tmp_path / "target").read_text() == "kept"


def test_replacing_a_file_leaves_its_hard_link_alone(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")
    _create(files, b"a")
    assert (tmp_path / "b").read_text() == "old"


def test_a_tree_that_is_deeper_than_any_path_is_removed(files: Files, tmp_path: Path) -> None:
    (tmp_path / ".removing-1").write_text("a neighbour of the name that removal uses")
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(500):  # 5,500 bytes of path; the longest is 4,096
        os.mkdir("d" * 10, dir_fd=at)
        below = os.open("d" * 10, os.O_RDONLY, dir_fd=at)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(at)
        at = below
    os.close(at)
    files.remove(b"d" * 10)
    assert files.names(b".") == [b".removing-1"]


def test_removing_a_link_leaves_its_target(files: Files, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_text("kept")
    files.remove(b"folder")
    assert files.names(b".") == [b"target"]


def test_the_guest_needs_only_what_python3_minimal_of_python_38_has() -> None:
    at_hand = {"__future__", "collections", "contextlib", "importlib", "os", "select", "signal", "stat"}
    at_hand |= {"struct", "time"}
    for name in containers.GUEST_MODULES:
        path = Path(containers.__file__).parent / f"{name}.py"
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= at_hand
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert str(node.module).split(".")[0] in at_hand
