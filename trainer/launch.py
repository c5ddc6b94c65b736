"""Was this process started as one of several? What torchrun says, read without loading torch."""

import os


def world_size() -> int:
    """How many processes share the learner.

    >>> world_size()
    1
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0"))


def default_threads() -> int:
    """Processor threads of a process that was not told: the machine's, shared with the ranks on it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
