"""What a program can see: processes, secrets, descriptors, what earlier ones left."""

import hashlib
import os
import secrets
import tempfile

from .driving import drive
from .row import expect, held, printed, row, told
from .target import Target

PROC = """
import os, sys
hidden = sys.stdin.read().split()
pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
ours = {1, os.getpid(), os.getppid()}
if not set(pids) <= ours: print("other processes:", sorted(set(pids) - ours))
def text(path):
    try:
        with open(path, "rb", 0) as file: return file.read(1 << 20).decode(errors="replace")
    except OSError: return ""
for pid in (1, "self"):
    for name in ("cmdline", "environ", "comm", "maps", "mountinfo", "mounts", "cgroup", "status", "stat",
                 "auxv", "limits", "smaps", "wchan", "stack", "syscall"):
        seen = text(f"/proc/{pid}/{name}")
        print(*(f"/proc/{pid}/{name} names {word}" for word in hidden if word in seen), sep="\\n", end="")
    for name in ("cwd", "root", "exe"):
        try: target = os.readlink(f"/proc/{pid}/{name}")
        except OSError: continue
        for word in hidden:
            if word in target: print(f"/proc/{pid}/{name} is {target}")
for name in ("environ", "mem", "maps", "fd", "root/etc", "cwd/x", "task/1/mem"):
    path = f"/proc/1/{name}"
    try: os.listdir(path) if os.path.isdir(path) else open(path).read(1)
    except OSError: continue
    print("opened", path)
for path in ("kcore", "kmsg", "sysrq-trigger", "sys/kernel/hostname", "sys/kernel/core_pattern",
             "sys/vm/drop_caches", "sys/kernel/sysrq", "sys/kernel/ns_last_pid", "bus",
             "sys/fs/binfmt_misc/register", "irq/default_smp_affinity", "acpi", "scsi/scsi", "timer_list"):
    try: fd = os.open(f"/proc/{path}", os.O_WRONLY)
    except OSError: continue
    if os.fstat(fd).st_rdev != os.makedev(1, 3): print("opened for writing", path)  # masked by /dev/null
for path, words in (("self/uid_map", b"0 0 1"), ("self/gid_map", b"0 0 1"), ("self/oom_score_adj", b"-1000")):
    try: os.write(os.open(f"/proc/{path}", os.O_WRONLY), words); print("wrote", path)
    except OSError: pass
for path in ("kcore", "kmsg"):
    if text(f"/proc/{path}"): print("read", path)
print("done")
"""
NO_PROC = """
import os
for path in ("/proc", "/proc/self/status", "/proc/1/environ", "/proc/kcore", "/proc/sys/kernel/hostname",
             "/proc/cpuinfo", "/proc/self/fd", "/proc/self/mem"):
    try: os.listdir(path) if os.path.isdir(path) else open(path).read(1)
    except OSError: continue
    print("read", path)
for path in ("/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/proc/self/oom_score_adj"):
    try: os.close(os.open(path, os.O_WRONLY)); print("opened for writing", path)
    except OSError: pass
print("done")
"""


async def _proc_is_closed(target: Target) -> str:
    """No process is seen, not even its own."""
    held(await target.python(NO_PROC))
    return "/proc can be neither read, listed nor written"


@row(
    17,
    "/proc shows a program's own processes, no path of the host, and takes no write",
    refusal=_proc_is_closed,
)
async def proc(target: Target) -> str:
    with tempfile.TemporaryDirectory(prefix="palaestra-canary-") as folder:
        hidden = f"{folder} {os.getcwd()}" if len(os.getcwd()) > 4 else folder
        held(await target.python(PROC, stdin=hidden.encode(), timeout_s=20))
    return "listing, kcore, kmsg, sysrq, sysctls; process 1's environment, memory, files"


_OF_BACKENDS = ("PATH", "HOME", "LANG", "TMPDIR", "HOSTNAME", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE")
_OF_SHELLS = ("LC_CTYPE", "_", "PWD", "SHLVL", "OLDPWD")
ALLOWED_NAMES = frozenset({*_OF_BACKENDS, *_OF_SHELLS})
"""Names that a program may find beside those of `SandboxSpec.env`."""
ENVIRONMENT = """
import os
names = set(os.environ)
try:
    for pid in ("self", "1", str(os.getppid())):
        try: parts = open(f"/proc/{pid}/environ", "rb").read().split(b"\\0")
        except PermissionError: continue
        names |= {part.split(b"=")[0].decode() for part in parts}
except OSError: pass
print(*sorted(names - {""}))
"""

# Counts a canary in its own memory: by its first bytes and the digest of the whole, so that it holds no
# copy itself. The kernel copies what is mapped into a pipe and refuses the rest, so no map is needed.
SCAN = """
import ctypes, hashlib, os, sys
first, digest = bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2])
held = [bytes.fromhex(sys.argv[3]) * count for count in (30, 30_000)] if sys.argv[3:] else []
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_long
libc.write.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long]
reader, writer = os.pipe()
def pieces(at, end, step):
    while (at - end) * step < 0:
        size = libc.write(writer, at, 65536 if step > 0 else 4096)
        if size > 0: yield os.read(reader, 65536)
        elif step < 0: return
        at += max(size, 4096) * step
def hits(parts):
    found, before = 0, b""
    for part in parts:
        text = before + part
        at = -1
        while (at := text.find(first, at + 1)) >= 0:
            found += hashlib.sha256(text[at : at + 32]).digest() == digest
        before = part[-31:]
    return found
heap = libc.sbrk(0) & -4096
while libc.write(writer, heap - 4096, 4096) > 0: heap -= 4096; os.read(reader, 4096)
print(hits(pieces(heap, libc.sbrk(0), 1)))
middle = id([]) & -4096
print(hits(pieces(middle - (1 << 28), middle + (1 << 28), 1)))
"""
CORE = "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)"


@row(18, "no secret of the driver's is inside: not in the environment, not in memory, not in a core")
async def secrets_outside(target: Target) -> str:
    canary = secrets.token_hex(16)
    digest = hashlib.sha256(canary.encode()).hexdigest()
    programs = [
        ["python3", "-c", ENVIRONMENT],
        ["sh", "-c", "cat /proc/*/environ /proc/*/cmdline 2>/dev/null; env; set"],
        ["python3", "-c", SCAN, canary[:8].encode().hex(), digest],
        ["python3", "-c", SCAN, canary[:8].encode().hex(), digest, canary.encode().hex()],
        ["python3", "-c", f"try:\n {CORE}\nexcept (OSError, ValueError): pass\nos.abort()"],
        ["sh", "-c", "ls; cat core* 2>/dev/null"],
    ]
    planted = {"AWS_SECRET_ACCESS_KEY": canary, "HF_TOKEN": canary, "PALAESTRA_TEST": canary}
    names, shown, found, control, _, core = await drive(
        target, {"stage": "programs", "programs": programs, "env": {"GIVEN": "1"}}, env=planted
    )
    extra = set(names.split()) - ALLOWED_NAMES - {"GIVEN"}
    expect("GIVEN" in names.split() and not extra, f"names in the environment: {names}")
    expect(canary not in shown, "the driver's secret is in what /proc and the shell show")
    expect(found.split() == ["0", "0"], f"the driver's secret is in a program's memory: {found!r}")
    expect(
        all(int(hits) > 0 for hits in control.split()), f"the scan does not find what is there: {control!r}"
    )
    expect(not core.strip(), f"a program that aborted left {core!r}")
    return "environment, /proc, a scan of all memory, a core dump; the driver's environment held the secret"


DESCRIPTORS = """
import os
found = []
for fd in range(4096):
    try: os.fstat(fd); found.append(fd)
    except OSError: pass
print(found)
"""


@row(19, "a program has its three descriptors and no other")
async def descriptors(target: Target) -> str:
    async with target.box() as box:
        for start in (["python3"], ["env", "python3"], ["sh", "-c", 'exec python3 "$@"', "sh"]):
            result = await box.run([*start, "-c", DESCRIPTORS])
            expect(printed(result) == "[0, 1, 2]", f"{start[0]}: open are {told(result)}")
    return "forked, executed, and through a shell"


DIRT = """
import ctypes, os, py_compile, subprocess, sys, tempfile
for base, below, _ in os.walk("/"):
    if base.startswith(("/proc", "/sys")) or base.count("/") > 2: below.clear(); continue
    try: open(base + "/palaestra-left", "w").close()
    except OSError: pass
for base in (".", tempfile.gettempdir(), "/dev/shm"):
    try: open(base + "/palaestra-left", "w").write("x")
    except OSError: pass
os.makedirs("__pycache__", exist_ok=True)
open("json.py", "w").write("stale = True")
try: py_compile.compile("json.py", cfile=os.path.dirname(os.__file__) + "/__pycache__/json.cpython-311.pyc")
except OSError: pass
libc = ctypes.CDLL(None)
libc.shmget(4711, 4096, 0o1666); libc.semget(4711, 1, 0o1666); libc.msgget(4711, 0o1666)
os.environ["LEFT"] = "1"
for _ in range(3):
    if os.fork() == 0: os._exit(0)
if os.fork() == 0:
    os.setsid(); os.execvp("sleep", ["sleep", "77"])
print("done")
"""
LOOK = """
import ctypes, json, os, tempfile
for base, below, files in os.walk("/"):
    if base.startswith(("/proc", "/sys")) or base.count("/") > 2: below.clear(); continue
    if "palaestra-left" in files: print("left in", base)
for base in (".", tempfile.gettempdir(), "/dev/shm"):
    try: files = [name for name in os.listdir(base) if "left" in name or name.endswith((".py", ".pyc"))]
    except OSError: continue
    if files: print("left in", base, files)
if hasattr(json, "stale"): print("a module of the last sandbox was loaded")
libc = ctypes.CDLL(None)
for name, call in (("shmget", (4711, 0, 0)), ("semget", (4711, 0, 0)), ("msgget", (4711, 0))):
    if getattr(libc, name)(*call) != -1: print("found by", name)
if "LEFT" in os.environ or "ONLY_THE_FIRST" in os.environ: print("left in the environment")
for base in (".", tempfile.gettempdir(), "/dev/shm"):
    try: found = os.stat(base)
    except OSError: continue
    if 4711 in (int(found.st_mtime), int(found.st_atime)): print("left in the times of", base)
try: processes = [name for name in os.listdir("/proc") if name.isdigit()]
except OSError: processes = []
for pid in processes:
    try: line = open(f"/proc/{pid}/stat").read()
    except OSError: continue
    if ") Z" in line or "(sleep)" in line: print("left alive or unburied:", line[:40])
print("done")
"""


# Leaves no file, so that whoever keeps a sandbox for its next owner may take it for a new one.
TIDY = """
import ctypes, os, tempfile
libc = ctypes.CDLL(None)
for base in (".", tempfile.gettempdir(), "/dev/shm"):
    try: open(base + "/palaestra-left", "w").close(); os.remove(base + "/palaestra-left")
    except OSError: pass
    try: os.utime(base, (4711, 4711))
    except OSError: pass
    try: os.setxattr(base, "user.palaestra-left", b"x"); os.removexattr(base, "user.palaestra-left")
    except OSError: pass
os.environ["LEFT"] = "1"; os.umask(0); os.nice(1)
for _ in range(3):
    if os.fork() == 0: os._exit(0)
print("done")
"""


@row(35, "the next sandbox finds nothing of the last")
async def residue(target: Target) -> str:
    for _ in range(target.size(1, 5)):
        for program in (DIRT, TIDY):
            held(await target.python(program, timeout_s=30, limits={"env": {"ONLY_THE_FIRST": "1"}}))
            held(await target.python(LOOK, timeout_s=30))
    return "files, shared memory, a stale module, zombies, a daemon, variables, the times of folders"
