"""`palaestra new env NAME`: an installable package with an environment, its test and its recipe."""

import importlib.util
import keyword
import re
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from ..envs import env_names
from .console import open_console
from .scaffold import env_package

new = typer.Typer(help="Begin something of your own.", no_args_is_help=True, rich_markup_mode=None)


@new.callback()
def group() -> None:
    """Begin something of your own."""


@new.command("env")
def new_env(
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens, such as word-count.")],
    at: Annotated[Path, typer.Option(help="The folder that the package's own folder is made in.")] = Path(),
) -> None:
    """Make a package with a working environment to change: entry point, test, recipe. Nothing is uploaded."""
    if why := _refusal(name):
        raise typer.BadParameter(f"{name!r}: {why}")
    folder = at / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise typer.BadParameter(
            f"{folder} exists already; choose another name, or --at another folder"
        ) from error
    for path, text in env_package(name, version("palaestra")).items():
        target = folder / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    open_console().print(
        f"{folder} is made. Next: pip install -e {folder}, then palaestra check env {name}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _refusal(name: str) -> str:
    """Why no package can have that name; "" when one can."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        return "write small letters, digits and single hyphens, and begin with a letter"
    package = name.replace("-", "_")
    if keyword.iskeyword(package):
        return "that is a word of Python's own"
    if name in env_names():
        return f"an environment of that name is installed; the names taken are: {', '.join(env_names())}"
    if importlib.util.find_spec(package) is not None:
        return f"a module {package!r} can be imported already, and one of the two would hide the other"
    return ""
