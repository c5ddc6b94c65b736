"""PID 1 of a Docker sandbox: runs programs and serves their files over its own stdin and stdout.

`docker.py` hands the text of this file and of its helpers to `python3 -c` in any image that has Python 3.8 or
newer. Debian's python3-minimal is enough: nothing here may need json, ctypes, shutil or subprocess.

It is root with the capabilities SETUID, SETGID and KILL; programs get another uid and none of them,
so that a program can neither signal, trace nor impersonate it. One request is served at a time, and
when a program's result is sent every process but this one is dead: no file call can race with a program.
When stdin ends the driver is gone; this process exits, and the kernel ends everything in the container.

    hello workspace uid gid cpus memory pids K=V...  -> ok missing-wall...
    run timeout_s limit stdin more argv...           -> stdin (asks for more)..., exit facts...
    stdin chunk | cancel                                during a run; an empty chunk is the end of stdin
    write path, data chunk..., end                   -> ok | refused why
    read path max_bytes                              -> data chunk..., ok | refused why
    list path                                        -> ok name... | refused why
    remove path                                      -> ok | refused why
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from .frames import CHUNK, Link
from .guest_files import Files, Refused
from .guest_program import Box, Program
from .guest_walls import missing_walls


def _incoming(link: Link) -> Iterator[bytes]:
    """The chunks of a file up to its "end" frame. A stray cancel is passed over."""
    while (frame := link.receive())[0] != b"end":
        if frame[0] == b"data":
            yield frame[1]


def _receive_file(link: Link, files: Files, path: bytes) -> None:
    chunks = _incoming(link)
    try:
        file = files.create(path)
        try:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(file, rest) :]
        except OSError:
            files.remove(path)  # half a file is worse than none
            raise
        finally:
            os.close(file)
    finally:
        for _ in chunks:  # what is left of a refused file
            pass


def _serve_files(link: Link, files: Files, frame: list[bytes]) -> list[bytes]:
    """One file call; the reply."""
    verb, path = frame[:2]
    try:
        if verb == b"write":
            _receive_file(link, files, path)
        elif verb == b"read":
            for chunk in files.chunks(path, int(frame[2]), CHUNK):
                link.send(b"data", chunk)
        elif verb == b"list":
            return [b"ok", *files.names(path)]
        else:
            files.remove(path)
    except OSError as error:
        return [b"refused", str(error.strerror).encode()]
    except Refused as error:
        return [b"refused", str(error).encode()]
    return [b"ok"]


def _leave(_signal: int, _frame: object) -> None:
    os._exit(0)


def _nothing(_signal: int, _frame: object) -> None:
    """A handler is what makes the kernel's signal reach the wakeup descriptor."""


def _alarm_on_child_death() -> int:
    """A descriptor that is readable whenever a child has died."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _nothing)
    return readable


def _set_up(link: Link) -> Box:
    """Answer the driver's hello with what this container lacks."""
    _, workspace, uid, gid, cpus, memory, pids, *settings = link.receive()
    os.makedirs(workspace, exist_ok=True)
    os.chmod(workspace, 0o777)  # root keeps it, so that no program can move it away or close it
    if os.getuid() != int(uid):
        os.setgroups([])
    env = {**os.environ, "HOME": os.fsdecode(workspace), "TMPDIR": "/tmp"}
    for setting in settings:
        name, _, value = os.fsdecode(setting).partition("=")
        env[name] = value
    root = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    link.send(b"ok", *(name.encode() for name in missing_walls(int(memory), int(pids))))
    return Box(root, int(uid), int(gid), int(cpus), env)


def main() -> None:
    """Serve until the driver's end closes."""
    signal.signal(signal.SIGTERM, _leave)  # `docker stop` need not wait for its deadline
    alarm = _alarm_on_child_death()
    link = Link()
    box = _set_up(link)
    files = Files(box.root)
    while True:
        frame = link.receive()
        if frame[0] == b"run":
            program = Program(link, box, frame, alarm)
            link.send(*program.report(program.supervise()))
        elif frame[0] not in (b"cancel", b"stdin"):  # these came too late for their run
            with box.as_program():
                reply = _serve_files(link, files, frame)
            link.send(*reply)
