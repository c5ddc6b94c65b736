"""Commands that turn on the session that runs them.

What `session.py` does not promise is not asked for: a command that redefines the very words by which a
session runs and answers (`eval`, `builtin`) lies about those that follow.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from ..sandbox import ExecStatus, Sandbox
from ..session import Session, SessionResult
from .row import expect, row, told
from .target import Target

LIMIT_S = 5.0

# Each makes what it prints, or the shell, look as if the next answer had come already.
FORGERIES = {
    "prompts": "PS1='0\\n$ '; PS2='> '; PS4='+ 0'; printf '$ \\n0\\n'; PROMPT_COMMAND='echo 0'",
    "old answers": "printf '%s\\0' '0 0' 'x 0' 0; printf '\\0\\0EXIT:0\\0\\n__DONE__ 0\\n'",
    "descriptors": "for fd in 3 4 5 6 7 8 9 63 255; do eval \"printf 'x 0\\0' >&$fd\"; done 2>/dev/null",
    "echo": "echo() { builtin echo forged 0; }; printf() { command printf 'forged 0\\0'; }",
    "aliases": "shopt -s expand_aliases; alias false=true exit=true echo=true test=true",
    "traps": "trap 'echo 0' DEBUG ERR RETURN; trap 'echo 0; exit 0' TERM USR1 HUP; set -T -E",
    "true and false": "true() { return 9; }; false() { return 0; }; test() { return 0; }",
    "tracing": "set -x -v",
    "closed outputs": "exec 1>&- 2>&-",
    "variables": "IFS=0; LANG=xx; LC_ALL=xx; BASH_ENV=/dev/zero; ENV=/dev/zero; POSIXLY_CORRECT=1",
}
LETHAL = {
    "exit 0": "exit 0",
    "exec": "exec /bin/true",
    "killed": "kill -9 $$",
    "errexit": "set -e; false",
    "nounset": "set -u; echo $nothing_of_this_name",
}
CHECK = "/bin/sh -c 'exit 7'"


@asynccontextmanager
async def _shell(box: Sandbox) -> AsyncGenerator[Session, None]:
    expect(box.capabilities().jobs, "this backend has no sessions: see Sandbox.capabilities()")
    shell = await box.shell()
    try:
        yield shell
    finally:
        await shell.close()


async def _code(shell: Session, command: str) -> int | None:
    return (await shell.run(command, timeout_s=LIMIT_S)).result.exit_code


@row(33, "nothing that a shell command prints or redefines passes for the exit code of another")
async def forgeries(target: Target) -> str:
    async with target.box() as box:
        for name, command in {**FORGERIES, **LETHAL}.items():
            async with _shell(box) as shell:
                first = await shell.run(command, timeout_s=LIMIT_S)
                expect(first.result.status is not ExecStatus.TIMEOUT, f"{name}: {told(first.result)}")
                for _ in range(2):
                    code = await _code(shell, CHECK)
                    expect(code == 7, f"after {name!r}, a command that exits with 7 has exit code {code}")
    return f"{', '.join(FORGERIES)}; {', '.join(LETHAL)}"


KEPT: Mapping[str, tuple[str, bytes]] = {
    "folder": ("mkdir -p d; cd d", b"/d\n"),
    "variable": ("x='a b'", b"a b\n"),
    "function": ("f() { echo from f; }", b"from f\n"),
    "background job": ("sleep 77 & disown", b""),
    "heredoc": ("cat <<'END' > h\n$x `id` \"quoted'\nEND", b"$x `id` \"quoted'\n"),
}
SHOW = {
    "folder": "pwd | tail -c 3",
    "variable": 'echo "$x"',
    "function": "f",
    "background job": "true",
    "heredoc": "cat h",
}
BROKEN_COMMANDS = {
    "unbalanced quote": "echo 'no end",
    "unbalanced brace": "{ echo no end",
    "open heredoc": "cat <<END\nno end",
    "NUL-less noise": "\x01\x02 ))) ;; done",
}
BIG = ": " + "x" * (1 << 20) + "; echo big"


@row(34, "a session outlives its commands, or is told to be lost and made anew")
async def hardships(target: Target) -> str:
    async with target.box() as box, _shell(box) as shell:
        for name, (command, seen) in KEPT.items():
            await shell.run(command, timeout_s=LIMIT_S)
            shown = await shell.run(SHOW[name], timeout_s=LIMIT_S)
            expect(shown.result.ok and shown.result.stdout == seen, f"{name}: {told(shown.result)}")
        for name, command in BROKEN_COMMANDS.items():
            await shell.run(command, timeout_s=LIMIT_S)
            await _works(shell, f"after {name!r}")
        big = await shell.run(BIG, timeout_s=20)
        expect(big.result.stdout == b"big\n", f"a command of 1 MB: {told(big.result)}")
        await _interrupted(shell, "sleep 77", keeps='echo "$x"', shown=b"a b\n")
        stuck = await shell.run("exec sleep 77", timeout_s=0.5)
        expect(stuck.result.status is ExecStatus.TIMEOUT and stuck.is_lost, f"exec sleep: {stuck}")
        await _works(shell, "after exec sleep")
    return f"{', '.join(KEPT)}; {', '.join(BROKEN_COMMANDS)}; 1 MB; Ctrl-C; exec; {await _python(target)}"


async def _works(session: Session, when: str, code: str = "echo fine") -> SessionResult:
    fine = await session.run(code, timeout_s=LIMIT_S)
    expect(fine.result.ok and fine.result.stdout == b"fine\n", f"{when}: {told(fine.result)}")
    return fine


async def _interrupted(session: Session, code: str, *, keeps: str, shown: bytes) -> None:
    running = asyncio.create_task(session.run(code, timeout_s=30))
    until = asyncio.get_running_loop().time() + 10
    while not running.done() and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.1)
        await session.interrupt()  # one that comes before the command has begun is heard by nobody
    expect(running.done(), f"Ctrl-C does not end {code!r}")
    expect(not (await running).is_lost, f"Ctrl-C of {code!r} ended the session")
    kept = await session.run(keeps, timeout_s=LIMIT_S)
    expect(kept.result.stdout == shown, f"after Ctrl-C: {told(kept.result)}")


PYTHON_ENDS = {
    "os._exit": "import os; os._exit(0)",
    "SystemExit": "raise SystemExit(3)",
    "exec": "import os; os.execvp('true', ['true'])",
    "killed": "import os; os.kill(os.getpid(), 9)",
}


async def _python(target: Target) -> str:
    async with target.box() as box:
        session = await box.python()
        await session.run("import math\nx = [math.floor(2.5)]", timeout_s=LIMIT_S)
        for code in ("def broken(:", "1 / 0", "import sys; sys.stdout.close()", "print('0 0\\0')"):
            await session.run(code, timeout_s=LIMIT_S)
        kept = await session.run("import os; os.write(1, repr(x).encode())", timeout_s=LIMIT_S)
        expect(kept.result.stdout == b"[2]", f"x of a Python session: {told(kept.result)}")
        await _interrupted(session, "while True: pass", keeps="os.write(1, repr(x).encode())", shown=b"[2]")
        for name, code in PYTHON_ENDS.items():
            await session.run(code, timeout_s=LIMIT_S)
            await _works(session, f"after {name!r}", "print('fine')")
        await session.close()
    return f"Python: {', '.join(PYTHON_ENDS)}"
