"""A function's arguments as a model meets them: a JSON schema, a parser, one line of help."""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, cast, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from typing_extensions import TypedDict

_KEPT: tuple[str, ...] = ("type", "properties", "required", "$defs")
_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class WrongArguments(ValueError):
    """The arguments do not fit. The message names each argument and what is wrong with it."""


class _Untitled(GenerateJsonSchema):
    """Without a title on each field: it repeats the name, and every prompt would pay for it."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Built once from a method's annotations and docstring.

    >>> str(Signature.of(Calculator.add))
    'add(a: number, b: number)'
    """

    name: str
    description: str
    """The docstring without its argument section."""
    schema: JsonSchemaValue
    """JSON schema of the arguments object."""
    adapter: TypeAdapter[dict[str, Any]]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Signature":
        """The signature of a method, without `self`. `TypeError` for what no schema can say."""
        description, notes = split_docstring(inspect.getdoc(function) or "")
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        fields: dict[str, Any] = {}
        for parameter in parameters:
            name = parameter.name
            if parameter.kind not in _PLAIN or name not in hints:
                raise TypeError(
                    f"tool {function.__name__!r}: argument {parameter} needs a name and an annotation"
                )
            hint = Annotated[hints[name], Field(description=notes[name])] if name in notes else hints[name]
            fields[name] = hint if parameter.default is parameter.empty else NotRequired[hint]
        # A TypedDict keeps the arguments that were given and nothing else: Python fills in the defaults.
        arguments = cast(Any, TypedDict)(function.__name__, fields)
        # pydantic reads a float out of "nan" and 1e999; JSON has no such numbers, and few tools expect them.
        arguments.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
        adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(arguments)
        made = adapter.json_schema(schema_generator=_Untitled)
        schema: JsonSchemaValue = {key: made[key] for key in _KEPT if key in made}
        return cls(name=function.__name__, description=description, schema=schema, adapter=adapter)

    def parse(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments in the annotated types. Raises `WrongArguments`."""
        try:
            return self.adapter.validate_json(json.dumps(dict(arguments), ensure_ascii=False).encode())
        except UnicodeEncodeError:
            # "\ud800" is fine in JSON and nowhere else: the tool would crash when it writes the text.
            raise WrongArguments("a text holds half of a surrogate pair") from None
        except ValidationError as error:
            wrong = [f"{_where(row['loc'])}: {row['msg']}" for row in error.errors(include_url=False)]
            raise WrongArguments("; ".join(wrong)) from None

    def __str__(self) -> str:
        required = self.schema.get("required", ())
        arguments = (
            f"{name}{'' if name in required else '?'}: {_type_name(schema)}"
            for name, schema in self.schema["properties"].items()
        )
        return f"{self.name}({', '.join(arguments)})"


def _where(path: tuple[int | str, ...]) -> str:
    return ".".join(map(str, path))


def _type_name(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(map(_type_name, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(map(repr, schema["enum"]))
    if "items" in schema:
        return f"array of {_type_name(schema['items'])}"
    return str(schema.get("type", "object" if "$ref" in schema else "any"))


_SECTION = re.compile(r"^(Args|Arguments|Parameters):\s*$", re.MULTILINE)
_OTHER_SECTION = re.compile(r"^(Returns|Raises|Yields|Examples?|Notes?):\s*$", re.MULTILINE)
_NOTE = re.compile(r"^(\s+)\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """(description, note per argument) of a Google-style docstring; a plain one is all description.

    >>> split_docstring("Look up a word.\\n\\nArgs:\\n    word: in lower case")
    ('Look up a word.', {'word': 'in lower case'})
    """
    description, *section = _SECTION.split(text, maxsplit=1)
    description = _OTHER_SECTION.split(description, maxsplit=1)[0].strip()
    notes: dict[str, str] = {}
    if not section:
        return description, notes
    depth, last = None, ""
    for line in _OTHER_SECTION.split(section[-1], maxsplit=1)[0].splitlines():
        note = _NOTE.match(line)
        if note and depth in (None, note[1]):
            depth, last = note[1], note[2]
            notes[last] = note[3].strip()
        elif last and line.strip():
            notes[last] = f"{notes[last]} {line.strip()}".strip()
    return description, notes
