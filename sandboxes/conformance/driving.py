"""Drivers in processes of their own: rows kill them, watch them, and plant secrets around them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from .row import Broken
from .target import Target

_MODULE = f"{__name__.rpartition('.')[0]}.driver"


def start_driver(
    target: Target,
    order: Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
    terminal: int | None = None,
) -> subprocess.Popen[bytes]:
    """A process that does what `order` says with sandboxes of the target; its lines come on stdout."""
    whole = {"backend": target.backend, "opener": target.opener, **order}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE, json.dumps(whole)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(env or {})},
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.PIPE if terminal is None else terminal,
        start_new_session=True,
    )


async def drive(
    target: Target, order: Mapping[str, Any], *, env: Mapping[str, str] | None = None
) -> list[str]:
    """The outputs of the order's programs. Raises `Broken` when the driver fails."""
    driver = start_driver(target, order, env=env)
    try:
        out, err = await asyncio.to_thread(driver.communicate, timeout=60)
    finally:
        end(driver)
    if driver.returncode != 0:
        raise Broken(f"a driver in a process of its own failed: {err.decode(errors='replace')[-600:]}")
    found: list[str] = json.loads(out)
    return found


def end(driver: subprocess.Popen[bytes]) -> None:
    """Kill it if it lives, and bury it."""
    if driver.poll() is None:
        os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    for pipe in (driver.stdout, driver.stderr):
        if pipe is not None:
            pipe.close()
