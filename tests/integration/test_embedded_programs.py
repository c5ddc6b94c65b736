"""Programs in the embedded sandboxes: how they start, what they see, and how their end is told."""

from collections.abc import Iterator

import pytest
from embedded_box import leaves_nothing, on_each_tier, play, printed, python, run

from palaestra.sandboxes import ExecResult, ExecStatus, Sandbox


@pytest.fixture(autouse=True)
def _nothing_is_left(tier: str) -> Iterator[None]:
    yield from leaves_nothing(tier)


PROGRAMS = {
    "print": "print(6 * 7)",
    "arguments": "import sys; print(__name__, sys.argv, sys.path[0], sys.orig_argv[1:])",
    "main": "import __main__; print(sorted(vars(__main__)), __main__.__spec__, __loader__)",
    "exit": "import sys; sys.exit(3)",
    "exit with words": "raise SystemExit('words')",
    "exit of site": "exit(4)",
    "os._exit": "import os; print('lost'); os._exit(5)",
    "large exit code": "raise SystemExit(258)",
    "uncaught": "def f(): return 1 / 0\n"
    "try: f()\nexcept ZeroDivisionError as e: raise ValueError('x') from e",
    "syntax": "x = = 1",
    "excepthook": "import sys; sys.excepthook = lambda *a: print('hook', a[0].__name__); 1 / 0",
    "unflushed": "f = open('out', 'w'); f.write('kept')\nimport atexit; atexit.register(print, 'at exit')",
    "finaliser": "class A:\n def __del__(self): print('gone')\na = A()",
    "threads": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(.05), print('late'))).start(); print('first')",
    "stack": "import traceback; print(len(traceback.extract_stack()) < 6)",
    "stdin": "print(input()); import sys; print(sys.stdin.read())",
    "closed stdout": "import os; print('x'); os.close(1)",
    "interrupt": "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\n"
    "except KeyboardInterrupt: print('caught')",
    "children": "import os, subprocess, sys\n"
    "print(subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True).stdout)\n"
    "pid = os.fork()\nif pid == 0: os._exit(9)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
    "pool": "from multiprocessing import get_context\n"
    "with get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
    "hash": "print(hash('x'), {str(n) for n in range(9)})",
    "signals": "import signal; print([signal.getsignal(n) for n in (2, 13, 15, 17)])",
    "encoding": "import sys; print(sys.stdout.encoding, sys.stdout.errors, sys.stdin.encoding, '\\u00e9')",
}


@on_each_tier
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_forked_program_cannot_be_told_from_one_that_was_executed(tier: str, name: str) -> None:
    async def part(box: Sandbox) -> tuple[list[ExecResult], bytes]:
        results: list[ExecResult] = []
        for start in (["python3"], ["env", "python3"]):
            results.append(await box.run([*start, "-c", PROGRAMS[name], "a", "-b"], stdin=b"line\nrest"))
        return results, await box.read("out") if name == "unflushed" else b"kept"

    (forked, executed), out = play(tier, part)
    for field in ("status", "exit_code", "stdout", "stderr"):
        assert getattr(forked, field) == getattr(executed, field)
    assert out == b"kept"


@on_each_tier
def test_a_script_and_standard_input_run_like_files(tier: str) -> None:
    script = b"import sys, os\nprint(sys.argv, __file__, sys.path[0] == os.path.dirname(__file__))\n1 / 0\n"

    async def part(box: Sandbox) -> None:
        await box.write("dir/script.py", script)
        forked = await box.run(["python3", "-u", "dir/script.py", "x"])
        executed = await box.run(["env", "python3", "-u", "dir/script.py", "x"])
        assert (forked.exit_code, forked.stdout, forked.stderr) == (1, executed.stdout, executed.stderr)
        piped = await box.run(["python3", "-", "x"], stdin=b"import sys; print(sys.argv, 'piped')")
        assert piped.stdout == b"['-', 'x'] piped\n"
        missing = await box.run(["python3", "nothing.py"])
        assert missing.exit_code == 2 and b"can't open file" in missing.stderr

    play(tier, part)


@on_each_tier
def test_every_kind_of_end_has_its_status(tier: str) -> None:
    async def part(box: Sandbox) -> None:
        for argv, status, code in (
            (["true"], ExecStatus.OK, 0),
            (["sh", "-c", "exit 7"], ExecStatus.NONZERO, 7),
            (["sh", "-c", "kill -9 $$"], ExecStatus.KILLED, None),
            (["python3", "-c", "import os; os.abort()"], ExecStatus.KILLED, None),
            (["no-such-program"], ExecStatus.NONZERO, 127),
            (["/usr"], ExecStatus.NONZERO, 126),
        ):
            result = await box.run(argv)
            assert (result.status, result.exit_code) == (status, code), (argv, result)
        for wrong in ([], "true", ["tr\0ue"]):
            with pytest.raises(ValueError, match="argv"):
                await box.run(wrong)
        with pytest.raises(ValueError, match="timeout_s"):
            await box.run(["true"], timeout_s=0)

    play(tier, part)


@on_each_tier
def test_only_listed_variables_are_inside(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAESTRA_CANARY", "sk-canary-4711")
    spec = {"env": {"GREETING": "h\u00e9llo", "PYTHONHASHSEED": "7"}}
    for shell in (["python3", "-c", "import os; print(*os.environ.items(), sep='\\n')"], ["env"]):
        text = printed(run(tier, shell, limits=spec))
        names = {line.strip("('").split("'")[0].split("=")[0] for line in text.splitlines()}
        allowed = {
            "GREETING",
            "PYTHONHASHSEED",
            "PATH",
            "HOME",
            "LANG",
            "TMPDIR",
            "LC_CTYPE",
            "_",
            "PWD",
            "SHLVL",
        }
        assert "GREETING" in names and names <= allowed
    # The zygote was started long before; what matters is that no process inside ever held it.
    heap = "import gc; print(any('canary-' + '4711' in repr(o) for o in gc.get_objects() if type(o) is dict))"
    assert printed(python(tier, heap)) == "False"


@on_each_tier
def test_a_variable_that_an_interpreter_reads_at_its_start_is_honoured(tier: str) -> None:
    code = "import time, sys; print(time.tzname[0], sys.stdout.encoding)"
    env = {"TZ": "JST-9", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert printed(python(tier, code, limits={"env": {"TZ": "JST-9"}})) == "JST utf-8"
    assert printed(python(tier, code, limits={"env": env})) == "JST ascii"


@on_each_tier
def test_any_bytes_come_back_as_they_are(tier: str) -> None:
    code = (
        "import os; os.write(1, bytes(range(256)) + b'\\x1b[31m\\xed\\xa0\\x80'); print(repr(os.sys.argv[1]))"
    )
    result = python(tier, code, "caf\udce9 -rf\n$(id)")
    assert result.stdout == bytes(range(256)) + b"\x1b[31m\xed\xa0\x80" + b"'caf\\udce9 -rf\\n$(id)'\n"


@on_each_tier
def test_time_and_memory_are_measured(tier: str) -> None:
    result = python(tier, "import time; time.sleep(0.2); x = b'x' * (50 << 20)")
    assert 0.2 <= result.wall_s < 5 and 0 < result.cpu_s < 2 and 50 < result.max_rss_mb < 100


@on_each_tier
def test_what_a_preloaded_module_says_is_no_output_of_the_programs(tier: str) -> None:
    assert python(tier, "print(1)", limits={"preload": ("this",)}).stdout == b"1\n"
