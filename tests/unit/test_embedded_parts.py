"""The parts of the embedded sandboxes that need no sandbox: files, command lines, frames, /proc."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.sandboxes import _files, _program, _wire
from palaestra.sandboxes._disk import DiskMeter
from palaestra.sandboxes._hosted import descendants
from palaestra.sandboxes._watch import Watch, start_time


@pytest.mark.parametrize(
    ("argv", "kind", "args"),
    [
        (("python3", "-c", "x", "a", "-b"), "-c", ("a", "-b")),
        (("python3", "-u", "-B", "-c", "x"), "-c", ()),
        (("python3", "-"), "-", ()),
        (("python3", "-", "a"), "-", ("a",)),
    ],
)
def test_plain_command_lines_need_no_exec(argv: tuple[str, ...], kind: str, args: tuple[str, ...]) -> None:
    program = _program.parse(argv)
    assert program is not None and (program.kind, program.args) == (kind, args)


@pytest.mark.parametrize(
    "argv",
    [
        ("python3",),
        ("python3", "-c"),
        ("python3", "-m", "this"),
        ("python3", "-I", "-c", "x"),
        ("python3", "-O", "-c", "x"),
        ("python3", "-cx"),
        ("python3", "missing.py"),
        ("python3", "-c", "\udce9"),
        ("python3", "-V"),
    ],
)
def test_what_only_a_fresh_interpreter_can_honour_takes_exec(argv: tuple[str, ...]) -> None:
    assert _program.parse(argv) is None


@given(st.binary(max_size=300), st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False)))
def test_a_reply_survives_any_cut(payload: bytes, header: dict[str, int | float]) -> None:
    reader, writer = os.pipe()
    try:
        _wire.send(writer, header, payload)
        _wire.send(writer, {}, b"next")
        sent = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
        os.close(writer)
    for cut in {0, 3, len(sent) // 2, len(sent)}:
        buffer = bytearray(sent[:cut])
        frames: list[tuple[_wire.Header, bytes]] = []
        for rest in (b"", sent[cut:]):
            buffer += rest
            while (frame := _wire.unpack(buffer)[0]) is not None:
                frames.append(frame)
        assert frames == [(header, payload), ({}, b"next")] and not buffer


def test_a_request_arrives_as_it_was_sent() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, _wire.request({"op": "run", "argv": ("a", "\udce9")}, b"stdin"))
        os.close(writer)
        assert _wire.receive(reader) == ({"op": "run", "argv": ("a", "\udce9")}, b"stdin")
        assert _wire.receive(reader) is None
    finally:
        os.close(reader)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), max_size=12))
def test_a_tree_of_any_shape_is_removed(paths: list[list[str]]) -> None:
    base = Path(f"/tmp/palaestra-unit-{os.getpid()}")
    (base / "tree").mkdir(parents=True)
    (base / "spared").write_text("x")
    for path in paths:
        directory = base.joinpath("tree", *path)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "file").write_text("x")
        if not (directory / "link").is_symlink():
            (directory / "link").symlink_to(base / "spared")
    root = os.open(base, os.O_RDONLY)
    try:
        _files.remove(root, "tree")
        assert _files.listing(root, ".") == ["spared"]
        _files.remove(root, "spared")
    finally:
        os.close(root)
        base.rmdir()


def test_the_disk_meter_counts_bytes_entries_depth_and_unlinked_files(tmp_path: Path) -> None:
    assert not DiskMeter(str(tmp_path), 1).is_over([])
    (tmp_path / "big").write_bytes(b"x" * (2 << 20))
    assert DiskMeter(str(tmp_path), 1).is_over([])
    with (tmp_path / "big").open() as held:
        (tmp_path / "big").unlink()
        assert not DiskMeter(str(tmp_path), 1).is_over([])
        assert DiskMeter(str(tmp_path), 1).is_over([os.getpid()])
        assert held.readable()
    deep = tmp_path.joinpath(*["d"] * 140)
    deep.mkdir(parents=True)
    assert DiskMeter(str(tmp_path), 1).is_over([])


def test_a_watch_adds_up_a_tree_of_processes() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & echo; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        found = list(descendants(shell.pid))
        assert len(found) == 2 and all(map(start_time, found))
        assert Watch(64, 2, lambda: found).check().is_full
        assert Watch(64, 1, lambda: found).check().broken == "pids"
        assert Watch(64, 9, lambda: found).check().broken is None
        for pid in found:
            os.kill(pid, 9)
    assert start_time(shell.pid) == 0 and Watch(1, 9, lambda: found).check().broken is None
    assert Watch(1, 9, lambda: [os.getpid()]).check().broken == "oom"


def test_importing_sandboxes_loads_nothing_heavy() -> None:
    code = "import sys, palaestra.sandboxes; print({'docker', 'ctypes', 'asyncio.events'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"set()\n"
