"""The JSON schema of a tool's arguments, as the rows of a dataset bring it."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

DRAFT = "https://json-schema.org/draft/2020-12/schema"
REGISTRY: Any = import_module("jsonschema_specifications").REGISTRY
"""Of the drafts alone; jsonschema's own would fetch what a schema refers to."""
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")

Path = tuple[str | int, ...]


class BadSchema(ValueError):
    """No schema that arguments can be held against; the message has the cure."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        """Of what is wrong, in the schema: ".properties.a.type"."""


def schema_validator(schema: Mapping[str, Any]) -> Any:
    """The validator of `jsonschema` for it; that fetches nothing. Raises `BadSchema`.

    >>> schema_validator({"type": "object", "required": ["a"]}).is_valid({"a": 1})
    True
    """
    schema = dict(schema)
    draft = schema.get("$schema", DRAFT)
    kind: Any = validator_for({"$schema": draft}, default=cast(Any, None)) if isinstance(draft, str) else None
    if kind is None:
        raise BadSchema(("$schema",), f"{draft!r:.80} is no draft of JSON schema; write {DRAFT!r}")
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise BadSchema(tuple(error.path), f"{error.message:.200}; write a JSON schema") from error
    _check_references(schema, draft)
    return kind(schema, registry=REGISTRY)


def _check_references(schema: dict[str, Any], draft: str) -> None:
    root = specification_with(draft).create_resource(schema)
    resolver = REGISTRY.resolver_with_root(root)
    for path, reference in _references(schema, ()):
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError) as error:  # the second of what is no URI at all
            cure = "nothing is fetched; put it under '$defs', and refer to '#/$defs/NAME'"
            raise BadSchema(path, f"{reference!r:.80} is not in the schema; {cure}") from error


def _references(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every reference in it, with its place; one that only looks like one, in an example, too."""
    if isinstance(value, dict):
        for name, each in cast(dict[str, Any], value).items():
            if name in _REFERENCES and isinstance(each, str):
                yield (*path, name), each
            else:
                yield from _references(each, (*path, name))
    elif isinstance(value, list):
        for number, each in enumerate(cast(Sequence[Any], value)):
            yield from _references(each, (*path, number))
