"""How a server of our own is started, with programs of a few lines in the place of vLLM."""

import argparse
import asyncio
import socket
import sys
from pathlib import Path

import pytest
from processes import wait_until_gone
from support import run_async

from palaestra.agents.engine import PolicyVersion, Sampling
from palaestra.agents.engines.vllm import VllmEngine
from palaestra.agents.engines.vllm_server import VllmServer, check_vllm_python, free_port
from palaestra.agents.errors import EngineError
from palaestra.trainer.parts import open_engine
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.reporting.progress import Silent

NEVER_READY = f"""#!{sys.executable}
import os, signal
print("process group", os.getpgrp(), flush=True)
signal.pause()
"""

DIES_OF_A_REQUEST = f"""#!{sys.executable}
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        print("(EngineCore) ValueError: head size 16", "shutting down", sep="\\n", flush=True)
        os._exit(1)

HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("args", [(), ("--host", "0.0.0.0"), ("--host=::", "--port=1")])
def test_the_server_listens_on_loopback_only_whatever_is_added(tmp_path: Path, args: tuple[str, ...]) -> None:
    server = VllmServer("model", log=tmp_path / "log", args=args)
    options = argparse.ArgumentParser()
    options.add_argument("--host")
    options.add_argument("--port", type=int)
    found, _ = options.parse_known_args(server.command(Path("python"), 8000)[3:])
    assert (found.host, found.port) == ("127.0.0.1", 8000)


def test_a_port_is_taken_before_its_server_listens() -> None:
    with socket.socket() as starting:  # as vLLM binds it, minutes before it answers
        starting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        starting.bind(("127.0.0.1", 0))
        port = starting.getsockname()[1]
        with pytest.raises(EngineError, match=rf"port {port}.*in use"):
            free_port(port)
    assert free_port(port) == port


def test_an_interpreter_is_asked_for_vllm_without_loading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = program(tmp_path / "python", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    with pytest.raises(EngineError, match=r"python' cannot import vllm: no module.*make vllm-cpu"):
        check_vllm_python(bare)
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise SystemExit('loaded')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check_vllm_python(bare)


def test_an_interpreter_that_does_not_answer_is_named(tmp_path: Path) -> None:
    stuck = program(tmp_path / "stuck", "#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(EngineError, match=r"stuck' cannot be run:.*timed out.*make vllm-cpu"):
        check_vllm_python(stuck, timeout_s=0.1)
    broken = program(tmp_path / "broken", "#!/bin/sh\necho no libpython >&2; exit 127\n")
    with pytest.raises(EngineError, match="cannot import vllm: no libpython"):
        check_vllm_python(broken)


class Watched(Silent):
    """Keeps what is said, and the first line of the log that is shown."""

    def __init__(self) -> None:
        self.notes = list[str]()
        self.line: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def waiting(self, what: str) -> None:
        if "process group" in what and not self.line.done():
            self.line.set_result(what)


def test_a_start_is_shown_and_can_be_called_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAESTRA_VLLM_PYTHON", str(program(tmp_path / "vllm", NEVER_READY)))
    fields = {"env": {"id": "arithmetic"}, "engine": {"kind": "vllm"}, "lora": {"rank": 2}}
    recipe = Recipe.model_validate({"name": "x", "runs_dir": tmp_path, "grpo": {"steps": 1}, **fields})

    async def main() -> None:
        progress = Watched()

        async def start() -> None:
            async with open_engine(recipe, tmp_path, progress):
                raise AssertionError("it is never healthy")

        starting = asyncio.create_task(start())
        shown = await progress.line
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert shown.startswith("vLLM, ")
        wait_until_gone(int(shown.split()[-1]))
        assert progress.notes == [f"starting vLLM; its log is {tmp_path / 'x' / 'vllm.log'}"]

    run_async(main())


def test_who_asks_a_server_that_has_died_is_told_what_of(tmp_path: Path) -> None:
    server = VllmServer("model", log=tmp_path / "log", python=program(tmp_path / "dies", DIES_OF_A_REQUEST))

    async def main() -> None:
        async with server:
            assert server.obituary() is None
            engine = VllmEngine(
                server.url, model="model", max_context=9, tries=9, backoff_s=0.1, obituary=server.obituary
            )
            try:
                with pytest.raises(
                    EngineError, match=r"(?s)server ended; its log .*ValueError: head size 16$"
                ):
                    await engine.generate([1], Sampling(max_tokens=1), policy=PolicyVersion(0), seed=0)
            finally:
                await engine.close()

    run_async(main())
