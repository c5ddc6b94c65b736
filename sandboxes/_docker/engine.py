"""The Docker engine through its SDK: a client for one use, its errors as ours, calls that may be repeated.

Blocking, all of it.
"""

import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from ..backoff import backoff_s
from ..errors import SandboxLost, SandboxUnavailable

T = TypeVar("T")

API_TIMEOUT_S = 60
ATTEMPTS = 4
"""Tries of a call that may be repeated."""
RETRY_WITHIN_S = 5.0
"""An engine that took longer to fail is not asked again."""

_answered = set[str]()
"""Addresses at which this process has met an engine."""


@contextmanager
def open_engine() -> Generator[tuple[Any, Any], None, None]:
    """The SDK module and a client for one use: clients are not made for sharing between threads."""
    try:
        docker: Any = import_module("docker")
    except ImportError as error:
        raise SandboxUnavailable(
            'the Docker backend needs the SDK: pip install "palaestra[docker]"'
        ) from error
    api = _client(docker)
    try:
        yield docker, api
    except docker.errors.APIError as error:
        if _is_refusal(error):
            raise SandboxUnavailable(
                f"the Docker engine refuses this sandbox: {error.explanation}"
            ) from error
        raise SandboxLost(f"the Docker engine failed: {error.explanation}") from error
    except OSError as error:  # requests' errors are OSErrors
        raise SandboxLost(f"the Docker engine went away: {error}") from error
    finally:
        api.close()


def _client(docker: Any) -> Any:
    address = engine_address(docker)
    try:
        _knock(address)
        api = docker.APIClient(version=None, timeout=API_TIMEOUT_S, **docker.utils.kwargs_from_env())
    except (docker.errors.DockerException, OSError) as error:
        if address in _answered:  # it is being restarted, perhaps
            raise SandboxLost(f"the Docker engine went away: {error}") from error
        cure = "start one (.ci/docker-up), or set DOCKER_HOST"
        raise SandboxUnavailable(f"no Docker engine answers: {cure} ({error})") from error
    _answered.add(address)
    return api


def engine_address(docker: Any) -> str:
    return str(docker.utils.kwargs_from_env().get("base_url") or docker.constants.DEFAULT_UNIX_SOCKET)


def _knock(address: str) -> None:
    """Raises OSError when nobody listens; the SDK would leave a socket open then, and a warning for later."""
    scheme, _, path = address.partition("://")
    if scheme in ("unix", "http+unix"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    elif scheme not in ("tcp", "http"):
        raise SandboxUnavailable(f"DOCKER_HOST={address!r}: only unix:// and plain tcp:// are spoken here")


def again(docker: Any, call: Callable[[], T]) -> T:
    """What `call` returns; repeated with pauses while the engine fails, or drops the connection."""
    started, failures = time.monotonic(), 0
    while True:
        try:
            return call()
        except OSError as error:  # the SDK's are OSErrors
            failures += 1
            is_over = failures == ATTEMPTS or time.monotonic() - started > RETRY_WITHIN_S
            if is_over or (isinstance(error, docker.errors.APIError) and _is_refusal(error)):
                raise
        time.sleep(backoff_s(0.1, failures, at_most_s=5.0))


def _is_refusal(error: Any) -> bool:
    """Whether the engine will say the same again."""
    return error.is_client_error() or "executable file not found" in str(error)
