"""What every section of a recipe is."""

from pathlib import Path
from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """A part of a recipe: no field that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """To Python `true` is 1, and `grpo.steps: true` is a slip."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError("true or false is not what this field takes")
        return value


def _writable(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot hold the character NUL; leave it out")
    return path


AnyPath = Annotated[Path, AfterValidator(_writable)]
