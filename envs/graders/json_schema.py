"""The answer is JSON that fits a schema."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeGuard

from ..cpu_limit import cpu_limit
from ..episode import Episode, Workspace
from ..errors import BadTask
from ..outcome import Score
from ..task import Task
from ..worker import WorkerDied, in_worker
from .answer import final_answer
from .read_json import NotJson, read_json
from .unit_tests import last_block

MAX_CPU_S = 1.0
"""Processor time of one validation: a `pattern` of the schema may backtrack for ever on a bad text."""
DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonSchema:
    """1 when the answer is JSON that is valid under a JSON schema, else 0.

    The answer is the last message's last fenced block, or all of it. Nothing is fetched: `$ref` reaches the
    schema itself and the drafts' own meta-schemas.

    >>> JsonSchema(schema={"type": "object", "required": ["city"]})
    """

    schema: Mapping[str, Any] | bool | None = None
    """None: `Task.reference` is the schema."""
    prefix: str | None = None
    """What stands before the JSON, which is then the rest of that line."""
    draft: str = DRAFT
    """The meta-schema of a schema without `$schema`."""
    check_formats: bool = False
    """Whether `format` binds, as far as jsonschema checks it without further packages: an email is an @."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for what is no schema, or refers to what is not there."""
        schema: Any = task.reference if self.schema is None else self.schema
        if not _is_schema(schema):
            raise BadTask(f"task {task.id!r}: {schema!r:.200} is no JSON schema; it must be a mapping")
        answer = final_answer(episode, self.prefix)
        if answer is None:
            return Score(reward=0.0, evidence=f"no {self.prefix!r} in the last message")
        text = answer if self.prefix is not None else last_block(answer)
        try:
            flaw = await in_worker(first_flaw, schema, text, self.draft, self.check_formats)
        except WorkerDied as died:
            if died.exit_code != -signal.SIGPROF:  # from outside: no validation ends so
                raise
            flaw = f"the schema cannot be checked on this text in {MAX_CPU_S:g} s"
        return Score(reward=float(not flaw), evidence=flaw)


def _is_schema(value: object) -> TypeGuard[Mapping[str, Any] | bool]:
    return isinstance(value, Mapping | bool)


def first_flaw(schema: Mapping[str, Any] | bool, text: str, draft: str, check_formats: bool) -> str:
    """Why a text does not fit, in words; "" when it does. For a worker process.

    >>> first_flaw({"type": "object"}, "[1]", DRAFT, False)
    "$: [1] is not of type 'object'"
    """
    with cpu_limit(MAX_CPU_S):
        validator = _validator(schema, draft, check_formats)
        try:
            value = read_json(text)
        except NotJson as error:
            return f"no JSON: {error}"
        unresolvable: Any = import_module("referencing.exceptions").Unresolvable
        try:
            errors = validator.iter_errors(value)
            flaw = next(errors, None)
        except unresolvable as error:
            raise BadTask(f"the schema refers to {error}, which is not in it; nothing is fetched") from error
        except (RecursionError, OverflowError) as error:  # of a value that is deep, or large
            return f"{type(error).__name__}: {error}"
        return "" if flaw is None else f"{flaw.json_path}: {flaw.message}"[:300]


def _validator(schema: Mapping[str, Any] | bool, draft: str, check_formats: bool) -> Any:
    """Raises `ValueError` for what is no schema."""
    library: Any = import_module("jsonschema")  # a third of a second
    named = schema.get("$schema", draft) if isinstance(schema, Mapping) else draft
    kind: Any = library.validators.validator_for({"$schema": named}, default=None)
    if kind is None:
        raise BadTask(f"there is no draft {named!r}; write one of JSON schema's, such as {DRAFT!r}")
    try:
        kind.check_schema(schema)
    except library.SchemaError as error:
        raise BadTask(f"no JSON schema, at {error.json_path}: {error.message}"[:500]) from error
    # Without a registry of our own, jsonschema would fetch what a schema refers to.
    registry: Any = import_module("jsonschema_specifications").REGISTRY
    return kind(schema, registry=registry, format_checker=kind.FORMAT_CHECKER if check_formats else None)
