"""Drivers that run as somebody without privileges; only root can start them."""

import os
import subprocess
import sys

import pytest
from support import ROOT

OTHER_USER = 61234


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user")


def run_as(user: int | None, argv: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv,
        env={"PYTHONPATH": str(ROOT / "typings"), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
        cwd="/",
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def python_for(user: int | None) -> str:
    """An interpreter that this user may run: a virtual environment may lie in root's own directory."""
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            done = run_as(user, [python, "-c", "import sys; raise SystemExit(sys.version_info < (3, 11))"])
        except PermissionError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip("no Python 3.11 that another user may run")
