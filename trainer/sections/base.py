"""What every section of a recipe is."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: no field that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _writable(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot hold the character NUL; leave it out")
    return path


AnyPath = Annotated[Path, AfterValidator(_writable)]
