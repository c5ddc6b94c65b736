"""What a row must mean: rules for one row that is well formed.

One rule is one function, and its name is the rule's. It yields (field, message with the cure). Rules
that look at the roles or the tools alone are asked once for all rows with the same ones.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from pydantic import TypeAdapter

from ..message import Message, ToolSpec
from ..tool_schema import BadSchema, schema_validator
from .row import Row, RowMessage, RowTool
from .shape import Found
from .tasks import to_messages, to_tools

Findings = Iterator[tuple[str, str]]
RoleRule = Callable[[Sequence[str]], Findings]
RowRule = Callable[[Row], Findings]
ToolRule = Callable[[Sequence[RowTool]], Findings]
Count = Callable[[Sequence[Message], Sequence[ToolSpec]], int]
"""The tokens of a conversation under a model's chat template, generation prompt and all. Raises `ValueError`
where the template cannot show it."""

SYSTEM = ("system", "developer")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NOTHING: tuple[Found, ...] = ()
_TOOLS = TypeAdapter(list[RowTool])


def problems_of(row: Row, more: Sequence[RowRule] = ()) -> Sequence[Found]:
    """What the rules find, and `more` rules of the caller's."""
    if row.messages is None and not row.tools and isinstance(row.prompt, str):  # a text that the user says
        return [Found(rule.__name__, *each) for rule in more for each in rule(row)] if more else NOTHING
    conversation = row.conversation
    wrong = _of_roles(tuple([each.role for each in conversation]))
    rules = more if _is_ordinary(conversation) else (*MESSAGE_RULES, *more)
    if not (wrong or rules or row.tools):
        return NOTHING
    found = [Found(rule, f"{_field(row)}{field}", message) for rule, field, message in wrong]
    found += [Found(rule.__name__, *each) for rule in rules for each in rule(row)]
    return found + _of_tools(row.tools_json) if row.tools else found


def system_first(roles: Sequence[str]) -> Findings:
    for number, role in enumerate(roles):
        if number and role in SYSTEM:
            yield f"[{number}].role", f"a {role} message behind others; move it to the front"


def has_user(roles: Sequence[str]) -> Findings:
    if "user" not in roles:
        yield "", "no user message; add one, it is what the model answers"


def ends_open(roles: Sequence[str]) -> Findings:
    if roles[-1] == "assistant":
        cure = "end with what the model shall answer, and move this to `reference_answer`"
        yield f"[{len(roles) - 1}]", f"the conversation ends with the assistant; {cure}"


def content_present(row: Row) -> Findings:
    for number, message in enumerate(row.conversation):
        if message.content:
            continue
        if message.role == "tool" and message.content is not None:
            continue  # a tool may have nothing to say
        if message.role == "assistant" and message.tool_calls:
            continue
        yield f"{_at(row, number)}.content", f"the {message.role} says nothing; write it, or drop the message"


def keys_of_role(row: Row) -> Findings:
    for number, message in enumerate(row.conversation):
        if message.tool_calls and message.role != "assistant":
            yield f"{_at(row, number)}.tool_calls", f"the {message.role} calls a tool; only assistants do"
        if message.tool_call_id is not None and message.role != "tool":
            yield f"{_at(row, number)}.tool_call_id", f"on a {message.role} message; only tools answer calls"


def call_pairing(row: Row) -> Findings:
    """Each result answers a call of the assistant message before it, and each call has its result."""
    waiting: dict[str, str] = {}  # call id -> field
    for number, message in enumerate(row.conversation):
        if message.role == "tool":
            if waiting.pop(message.tool_call_id or "", None) is None:
                cure = "give it the `id` of a call in the assistant message before it"
                yield f"{_at(row, number)}.tool_call_id", f"{message.tool_call_id!r} answers no call; {cure}"
            continue
        yield from _unanswered(waiting)
        waiting.clear()
        for place, call in enumerate(message.tool_calls or ()):
            if call.id in waiting:
                yield f"{_at(row, number)}.tool_calls[{place}].id", f"{call.id!r} stands twice; number them"
            waiting[call.id] = f"{_at(row, number)}.tool_calls[{place}]"
    yield from _unanswered(waiting)


def known_tools(row: Row) -> Findings:
    """Calls in the conversation are calls of the row's tools."""
    names: set[str] | None = None
    for number, message in enumerate(row.conversation):
        for place, call in enumerate(message.tool_calls or ()):
            if names is None:
                names = {tool.function.name for tool in row.tools or ()}
            if call.function.name not in names:
                field = f"{_at(row, number)}.tool_calls[{place}].function.name"
                yield field, f"{call.function.name!r} is not in `tools`; add it there"


def tool_names(tools: Sequence[RowTool]) -> Findings:
    for number, tool in enumerate(tools):
        if not TOOL_NAME.fullmatch(tool.function.name):
            cure = "use up to 64 letters, digits, '_' and '-'"
            yield f"tools[{number}].function.name", f"{tool.function.name!r:.80} is no name; {cure}"


def duplicate_tools(tools: Sequence[RowTool]) -> Findings:
    names = [tool.function.name for tool in tools]
    for number, name in enumerate(names):
        if name in names[:number]:
            yield f"tools[{number}].function.name", f"{name!r} stands twice; give each tool a name of its own"


def tool_schema(tools: Sequence[RowTool]) -> Findings:
    """`parameters` is a JSON schema of an object."""
    for number, tool in enumerate(tools):
        field, parameters = f"tools[{number}].function.parameters", tool.function.parameters
        if parameters is None:
            continue
        try:
            schema_validator(parameters)
        except BadSchema as error:
            yield f"{field}{error.place}", str(error)
            continue
        if parameters.get("type") != "object":
            cure = "arguments are an object: write 'object'"
            yield f"{field}.type", f"{parameters.get('type')!r:.60}; {cure}"


ROLE_RULES: tuple[RoleRule, ...] = (system_first, has_user, ends_open)
MESSAGE_RULES: tuple[RowRule, ...] = (content_present, keys_of_role, call_pairing, known_tools)
"""Of rows in which a message has no content, calls a tool or answers a call; of others they hold."""
TOOL_RULES: tuple[ToolRule, ...] = (tool_names, duplicate_tools, tool_schema)


def length_rule(count: Count, max_tokens: int) -> RowRule:
    """The prompt has at most `max_tokens` tokens as the model will see it."""

    def length(row: Row) -> Findings:
        try:
            tokens = count_tokens(row, count)
        except ValueError as error:
            yield _field(row), f"{error}; write it as this model's template wants it"
            return
        if tokens > max_tokens:
            yield _field(row), f"{tokens} tokens, the limit is {max_tokens}; shorten it, or drop the row"

    return length


def count_tokens(row: Row, count: Count) -> int:
    return count(to_messages(row.conversation), to_tools(row.tools or ()))


def _field(row: Row) -> str:
    return "prompt" if row.messages is None else "messages"


def _at(row: Row, number: int) -> str:
    return f"{_field(row)}[{number}]"


def _unanswered(waiting: dict[str, str]) -> Findings:
    for name, field in waiting.items():
        yield field, f"call {name!r} is not answered; add a tool message with this `tool_call_id` behind it"


def _is_ordinary(conversation: Sequence[RowMessage]) -> bool:
    for message in conversation:
        if not message.content or message.tool_calls or message.tool_call_id is not None:
            return False
        if message.role == "tool":
            return False
    return True


@lru_cache(maxsize=1024)
def _of_roles(roles: tuple[str, ...]) -> list[Found]:
    return [Found(rule.__name__, *each) for rule in ROLE_RULES for each in rule(roles)]


@lru_cache(maxsize=256)
def _of_tools(tools_json: bytes) -> list[Found]:
    tools = _TOOLS.validate_json(tools_json)
    return [Found(rule.__name__, *each) for rule in TOOL_RULES for each in rule(tools)]
