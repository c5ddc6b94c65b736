"""A job without its loop, beside a stranger that writes into its pipes faster than anybody reads them."""

import subprocess
import sys

import pytest

ENDLESS = """
import marshal, os, signal, sys
from contextlib import nullcontext
from palaestra.sandboxes._inside.cell import Events
from palaestra.sandboxes._inside.job import Job, Order
from palaestra.sandboxes._inside.pages import Pages
from palaestra.sandboxes._inside.reactor import End, Reactor
from palaestra.sandboxes._inside.wire import Outbox

class Open:
    as_program = staticmethod(nullcontext)
    def confine(self): pass
    def renew(self): pass
    def events(self): return Events()

text = marshal.dumps((("sh", "-c", "echo; exec sleep 60"), {}, "."))
command = Pages(len(text))
with command.view() as whole: whole[:] = text
order = Order(
    channel=1, kind=sys.argv[1], payload=command, command_size=len(text), more_stdin=False, timeout_s=None,
    output_limit=9, memory_mb=512,
)
outbox_end, ours = os.pipe()
os.set_blocking(ours, False)
reactor = Reactor()
job = Job(order, Open(), reactor, Outbox(ours))
assert job.start() is None
reactor.turn(None)  # it has come as far as its first line
stranger = os.open(f"/proc/{job.pid}/fd/1", os.O_WRONLY)
readv = os.readv

def read_and_be_refilled(fd, buffers):
    got = readv(fd, buffers)
    os.write(stranger, bytes(got))
    return got

os.write(stranger, bytes(1000))
os.readv = read_and_be_refilled
os.kill(job.pid, signal.SIGKILL)
_, status, usage = os.wait4(job.pid, 0)
job.report(None, End(status, usage))
print(os.read(outbox_end, 1 << 20).rpartition(b"exit ")[2].split()[0])
"""


@pytest.mark.parametrize("kind", ["run", "job"])
def test_a_stranger_that_never_stops_writing_does_not_keep_a_job_from_its_end(kind: str) -> None:
    # In a process of its own, which forks, and in which `readv` is another.
    done = subprocess.run(
        [sys.executable, "-P", "-c", ENDLESS, kind], capture_output=True, check=True, timeout=20
    )
    assert done.stdout == b"b'killed'\n"
