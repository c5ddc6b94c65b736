"""Was this process started as one of several, and where does it compute? Read without loading torch."""

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


def choose_device(wanted: str, *, has_gpu: bool) -> str:
    """Where this rank's weights go: "auto" is a GPU where there is one, each rank on a machine its own.

    >>> choose_device("auto", has_gpu=True), choose_device("auto", has_gpu=False)
    ('cuda:0', 'cpu')

    Raises `ValueError` for a GPU that there is not.
    """
    if wanted == "cuda" and not has_gpu:
        raise ValueError("cuda, and torch sees no GPU here; leave it out, or set it to cpu")
    if wanted == "cpu" or not has_gpu:
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def default_threads() -> int:
    """Processor threads of a process that was not told: the machine's, shared with the ranks on it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
