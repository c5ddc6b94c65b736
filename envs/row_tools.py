"""Tools of a dataset's rows: described in the row, done by a Python function of the same name."""

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from .env import Env
from .errors import ToolBroken, ToolError, no_exit
from .message import ToolCall, ToolSpec
from .task import Task
from .threads import in_thread
from .tool_schema import BadSchema, schema_validator
from .tools import AnyTool

TIMEOUT_S = 60.0
"""Of one call."""


class RowTool(AnyTool):
    """The row's schema says which arguments fit. A plain `def` runs in a thread."""

    def __init__(self, spec: ToolSpec, function: Callable[..., Any]) -> None:
        super().__init__(spec, TIMEOUT_S)
        self._function = function
        self._schema: Any = schema_validator(spec.parameters)

    def parse(self, call: ToolCall) -> dict[str, Any]:
        """As they are, where schema and function take them."""
        arguments = dict(call.arguments)
        wrong = [f"{error.json_path}: {error.message}" for error in self._schema.iter_errors(arguments)]
        if wrong:
            raise ToolError(f"wrong arguments: {'; '.join(wrong)}")
        try:
            inspect.signature(self._function).bind(**arguments)
        except TypeError as error:
            raise ToolError(f"wrong arguments: {error}") from None
        return arguments

    async def call(self, env: Env[Any], arguments: dict[str, Any]) -> Any:
        """Raises `ToolError` for what the function raises, and `ToolBroken` as it is."""
        try:
            if inspect.iscoroutinefunction(self._function):
                with no_exit():
                    return await self._function(**arguments)
            return await in_thread(lambda: self._function(**arguments))
        except (ToolError, ToolBroken):
            raise
        except (
            Exception
        ) as error:  # every kind: the arguments are the policy's, which must not end its episode
            raise ToolError(f"{type(error).__name__}: {error}") from error


def row_tools(task: Task, functions: Mapping[str, Callable[..., Any]]) -> dict[str, RowTool]:
    """The tools of a task. Raises `ValueError` for one that nobody can do, or whose schema is none."""
    found: dict[str, RowTool] = {}
    for spec in task.tools:
        if spec.name not in functions:
            raise ValueError(
                f"task {task.id!r} has the tool {spec.name!r}, and the file of tools has no function of that "
                f"name; it has: {', '.join(functions) or 'none'}"
            )
        try:
            found[spec.name] = RowTool(spec, functions[spec.name])
        except BadSchema as error:
            where = f"task {task.id!r}: tool {spec.name!r}: parameters{error.place}"
            raise ValueError(f"{where}: {error}") from error
    return found


def functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions of a module, imported ones too."""
    members = {name: each for name, each in vars(module).items() if not name.startswith("_")}
    return {name: each for name, each in members.items() if inspect.isfunction(each)}
