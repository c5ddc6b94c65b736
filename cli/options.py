"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON; the rest goes to stderr.")]
WhoPlays = Annotated[
    str,
    typer.Option(
        "--policy", help='"oracle", "model" (the recipe\'s), a model folder, or the URL of a chat endpoint.'
    ),
]
ModelName = Annotated[str, typer.Option(help="The model's name at the chat endpoint.")]
ApiKeyEnv = Annotated[str | None, typer.Option(help="Environment variable with the endpoint's key.")]
Prompt = Annotated[str | None, typer.Option(help="The field with the prompt, where it has another name.")]
Reference = Annotated[str | None, typer.Option(help="The field with the reference, likewise.")]
