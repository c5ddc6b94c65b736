"""The run's name on what it leaves outside its folder: the labels of its containers."""

import os

from ..sandboxes._docker.owner import RUN_VARIABLE


def name_run(name: str) -> None:
    """For this process, unless the user has named it otherwise."""
    os.environ.setdefault(RUN_VARIABLE, name)
