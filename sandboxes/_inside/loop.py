"""The first process of a sandbox: it answers the driver, and runs programs, until the connection closes.

    driver ──request──> loop ──fork──> program          any number of programs at a time, each a job
           <──reply────      <──pipes──

    run        channel's job is started; "out" and "exit" when it and all that it left behind are gone
    park       "ok" when it is as new, and may be opened again soon; or "refused"
    open       "ok": somebody else's from here on
    feed       bytes for its standard input, or for a connection of the relay; "ok" when it has taken them
    signal     to its process group; "ok"
    ack        so many bytes of its streams were read; no reply
    cancel     end it; no reply of its own
    hang_up    close a connection of the relay; no reply
    write, append, read, list, remove    one file call; "ok" or "refused"
    freeze     "ok", with descriptors of the files as they are; or "refused"

End of file on the connection (closed, or the driver was killed): everything dies with the loop.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import Any, NoReturn

from . import files
from .brand import brand_of
from .cell import Home, children, descendants
from .job import Job, Order
from .pages import Pages
from .program import Program
from .reactor import Children, Reactor
from .relay import FIRST_CHANNEL, Relay
from .wire import Bytes, DriverGone, Inbox, Outbox, Request, Text

PARKED_S = 0.15
"""How long a parked sandbox waits for its next owner."""


class Loop:
    """`home` is what holds the programs in."""

    def __init__(
        self, inbox: Inbox, outbox: Outbox, home: Home, *, memory_mb: int, has_network: bool
    ) -> None:
        self._inbox, self._outbox, self._home = inbox, outbox, home
        self._memory_mb = memory_mb
        self._reactor = Reactor()
        self._children = Children(self._reactor)
        self._jobs: dict[int, Job] = {}
        self._tick = home.first_look_s
        self._next_check = 0.0
        # Names of files lie in the heap, and what was cut off may have left anything: nobody else gets that.
        self._may_be_parked = not has_network
        self._parked_until: float | None = None
        self._relay = Relay(self._reactor, outbox) if has_network else None
        self._reactor.watch(inbox.fd, select.POLLIN, self._on_request)

    def serve(self) -> Program:
        """Until the driver is gone. Returns only in a fork, with the program that it is to become.

        Going back to the top of the stack keeps our frames out of the program's sight.
        """
        try:
            while True:
                before = time.monotonic()
                program = self._reactor.turn(self._within_s(before))
                if program is not None:
                    return program
                self._end_the_ended()
                # As of before the turn: on a busy machine we may be late, and it may have ended in time.
                self._end_the_late(before)
                if self._jobs and time.monotonic() >= self._next_check:
                    self._look()
                self._watch_outbox()
                if self._parked_until is not None and before >= self._parked_until:
                    self._leave()
        except DriverGone:
            self._leave()

    def _leave(self) -> NoReturn:
        self._kill_all()
        self._home.leave()
        os._exit(0)

    def _within_s(self, now: float) -> float | None:
        if self._parked_until is not None:
            return self._parked_until - now
        if not self._jobs:
            return None
        return min(self._next_check, *(job.deadline for job in self._jobs.values())) - now

    def _watch_outbox(self) -> None:
        if not self._outbox.is_empty:
            self._reactor.watch(self._outbox.fd, select.POLLOUT, self._on_writable)

    def _on_writable(self) -> None:
        self._outbox.flush()
        if self._outbox.is_empty:
            self._reactor.forget(self._outbox.fd)
            if self._outbox.fd == self._inbox.fd:
                self._reactor.watch(self._inbox.fd, select.POLLIN, self._on_request)

    # ------------------------------------------------------------ requests

    def _on_request(self) -> Program | None:
        request = self._inbox.take()
        if request is None:
            return None
        verb: str = request.head["op"]
        if verb == "run":
            return self._run(request)
        job = self._jobs.get(request.head.get("job", 0))
        if verb == "feed":
            self._feed(request, job)
            return None
        if verb == "signal":
            if job is not None:
                job.signal(request.head["number"])
            self._outbox.put(request.channel, b"ok")
        elif verb == "ack":
            if job is not None:
                job.acknowledge(request.head["size"])
            elif self._relay is not None:
                self._relay.acknowledge(request.head["job"], request.head["size"])
        elif verb == "cancel":
            if job is not None:
                self._end(job, "killed")
        elif verb == "hang_up":
            if self._relay is not None:
                self._relay.hang_up(request.head["job"], is_whole=request.head["is_whole"])
        elif verb == "park":
            self._park(request)
        elif verb == "open":
            self._parked_until = None
            self._outbox.put(request.channel, b"ok")
        elif verb == "freeze":
            self._freeze(request)
        else:
            self._file_call(request)
        request.payload.close()
        return None

    def _run(self, request: Request) -> Program | None:
        head = request.head
        order = Order(
            channel=request.channel,
            kind=head["kind"],
            payload=request.payload,
            command_size=head["command_size"],
            more_stdin=head["more_stdin"],
            timeout_s=head["timeout_s"],
            output_limit=head["output_limit"],
            memory_mb=self._memory_mb,
        )
        job = Job(order, self._home, self._reactor, self._outbox)
        program = job.start()
        if program is not None:
            return program
        if not job.pid:
            self._may_be_parked = False
            return None
        if not self._jobs:
            self._tick = self._home.first_look_s
            self._next_check = time.monotonic() + self._tick
        self._jobs[job.channel] = job
        if len(self._jobs) > 1:
            for each in self._jobs.values():
                each.was_alone = False
        return None

    def _feed(self, request: Request, job: Job | None) -> None:
        def done() -> None:
            request.payload.close()
            self._outbox.put(request.channel, b"ok")

        to: int = request.head["job"]
        if self._relay is not None and to >= FIRST_CHANNEL:
            self._relay.feed(to, request.payload, done, request.head["is_last"])
        elif job is None or job.stdin is None:
            done()
        else:
            job.stdin.put(request.payload, done, is_last=request.head["is_last"])

    def _park(self, request: Request) -> None:
        if self._may_be_parked and not self._jobs and self._home.is_as_new():
            self._parked_until = time.monotonic() + PARKED_S
            self._outbox.put(request.channel, b"ok")
        else:
            self._outbox.put(request.channel, b"refused")

    def _freeze(self, request: Request) -> None:
        self._may_be_parked = False
        try:
            if self._jobs:
                raise files.Refused("programs are running; a workspace is forked between them")
            self._outbox.put_descriptors(request.channel, b"ok", self._home.freeze())
        except files.Refused as error:
            self._outbox.put(request.channel, b"refused", Text(str(error).encode()))

    def _file_call(self, request: Request) -> None:
        self._may_be_parked = False
        reply: Bytes | None
        try:
            with self._home.as_program():
                head, reply = b"ok", _file_call(self._home.workspace, request.head, request.payload)
        except files.Refused as error:
            head, reply = b"refused", Text(str(error).encode(errors="backslashreplace"))
        except OSError as error:
            words = files.explain(request.head["path"], error)
            head, reply = b"refused", Text(words.encode(errors="backslashreplace"))
        self._outbox.put(request.channel, head, reply)

    # ------------------------------------------------------------ ends

    def _end_the_ended(self) -> None:
        ended = self._children.ended
        while over := [job for job in self._jobs.values() if job.pid in ended]:
            self._end(over[0], None)  # which may find that others have ended too
        ended.clear()

    def _end_the_late(self, now: float) -> None:
        for job in list(self._jobs.values()):
            if now >= job.deadline:
                self._end(job, "timeout")

    def _look(self) -> None:
        check = self._home.check()
        for job in self._jobs.values():
            job.was_full = job.was_full or check.is_full
        if check.broken is not None:
            self._end(self._jobs[self._whose_fault(check.broken)], check.broken)
        self._tick = min(2 * self._tick, check.within_s)
        self._next_check = time.monotonic() + self._tick

    def _whose_fault(self, broken: str) -> int:
        """The limits are the sandbox's: the job that uses most of what ran out answers."""
        members: dict[int, list[int]] = {channel: [] for channel in self._jobs}
        for pid, owner in self._owners().items() if len(members) > 1 else ():
            if owner in members:
                members[owner] += [pid, *descendants(pid)]
        return max(members, key=lambda channel: self._home.use(members[channel], broken))

    def _owners(self) -> dict[int, int]:
        """Of each child of this process, which has inherited all that lost their parents, the job."""
        mains = {job.pid: job.channel for job in self._jobs.values()}
        return {pid: mains.get(pid) or brand_of(pid) for pid in children(os.getpid())}

    def _end(self, job: Job, broken: str | None) -> None:
        """Kill what is left of a job, then tell the driver."""
        self._may_be_parked = self._may_be_parked and broken is None and job.is_run
        if broken is None and not job.was_full and self._children.ended[job.pid].exit_code != 0:
            # What filled the process table is often still there when the main program gives up.
            job.was_full = self._home.check().is_full
        del self._jobs[job.channel]
        if self._jobs:
            self._kill_strays()
        else:
            self._kill_all()
        job.report(broken, self._children.ended.pop(job.pid))

    def _kill_all(self) -> None:
        self._home.kill_all()
        while self._children.reap_one(0):
            # All that have ended, before the others are looked for: a look among 30,000 dead takes a second.
            while self._children.reap_one(os.WNOHANG):
                pass
            self._home.kill_all()  # what was forked meanwhile

    def _kill_strays(self) -> None:
        """Kill every process that is of no job under way."""
        while doomed := [pid for pid, owner in self._owners().items() if owner not in self._jobs]:
            for top in doomed:
                for pid in (top, *descendants(top)):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            # One of them is a child of ours and dying, or has been reaped on the way.
            self._children.reap_one(0)
            while self._children.reap_one(os.WNOHANG):
                pass


def _file_call(root: int, head: dict[str, Any], payload: Pages) -> Bytes | None:
    path: str = head["path"]
    verb = head["op"]
    if verb == "write":
        with payload.view() as data:
            files.write(root, path, data)
    elif verb == "append":
        with payload.view() as data:
            files.append(root, path, data)
    elif verb == "read":
        return files.read(root, path, head["max_bytes"], head["at"], head["most"])
    elif verb == "list":
        names = files.listing(root, path)
        return Text(b"\0".join(name.encode(errors="surrogateescape") for name in names))
    elif verb == "remove":
        files.remove(root, path)
    else:
        raise AssertionError(f"no such call: {verb}")
    return None
