"""Removing the containers of drivers that are gone."""

import threading
from contextlib import suppress
from typing import Any

from .owner import LABEL, host_label, is_gone

_sweep_lock = threading.Lock()
_swept = False


def sweep_once(docker: Any, api: Any) -> None:
    """Remove what drivers left that were killed together with their reapers. Once per process."""
    global _swept
    with _sweep_lock:
        if _swept:
            return
        labels = [f"{LABEL}=1", f"{LABEL}.host={host_label()}"]
        for container in api.containers(all=True, filters={"label": labels}):
            if is_gone(container["Labels"].get(f"{LABEL}.owner", "")):
                with suppress(docker.errors.APIError):  # it is on its way out already
                    api.remove_container(container["Id"], force=True, v=True)
        _swept = True
