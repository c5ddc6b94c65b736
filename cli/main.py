"""The `palaestra` command."""

import sys

import click
import typer

from ..agents.errors import EngineError, LedgerError
from ..envs.registry import UnknownEnv
from ..sandboxes import SandboxUnavailable
from ..trainer.recipe_file import RecipeError
from .check import check
from .eval import evaluate
from .play import play
from .replay import replay
from .train import train

USER_ERRORS = (RecipeError, UnknownEnv, LedgerError, EngineError, SandboxUnavailable)
"""What a person can mend: one paragraph and exit code 2, no traceback."""

app = typer.Typer(
    help="Multi-turn agentic reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("play")(play)
app.command("replay")(replay)
app.add_typer(check, name="check")


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a check failed, 2 wrong input, 130 and 143 interrupted."""
    try:
        sys.exit(app(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Abort:
        sys.exit(130)
    except USER_ERRORS as error:
        typer.echo(f"palaestra: {error}", err=True)
        sys.exit(2)
