"""What a wrong field of a recipe is, in one line: its name, its value and the cure."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from .recipe import Recipe

CUTS = ("top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
"""Settings of sampling under which the engine draws from another distribution than the learner trains."""


def explain(detail: Any) -> str:
    """One line for one wrong field."""
    if not detail["loc"]:  # something between fields
        return f"  {detail['msg'].removeprefix('Value error, ')}"
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        if where in [f"sampling.{name}" for name in CUTS]:
            return (
                f"  {where}: cannot be set: the learner trains the whole distribution, and a part of it, or "
                "another one, sampled by the engine would bias every ratio; leave it out"
            )
        close = difflib.get_close_matches(str(detail["loc"][-1]), _fields(detail["loc"][:-1]), n=1)
        cure = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(_fields(detail['loc'][:-1]))}"
        return f"  {where}: no such field; {cure}"
    if detail["type"] == "missing":
        return f"  {where}: is missing"
    return f"  {where}: {detail['input']!r}: {detail['msg'].removeprefix('Value error, ')}"


def _fields(path: Sequence[Any]) -> list[str]:
    """The field names of the section at `path`."""
    section: Any = Recipe
    for name in path:
        annotation = section.model_fields[name].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        models = [kind for kind in options if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not models:
            return list(getattr(annotation, "__slots__", ()))
        section = models[0]
    return sorted(section.model_fields)
