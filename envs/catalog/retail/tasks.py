"""Tasks: what the user wants, and the state of the database that the recorded actions lead to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ToolError
from ...message import SystemMessage, ToolSpec, UserMessage
from ...signature import WrongArguments
from ...task import Task
from .database import Database, Shop, digest
from .demo import demo_shop
from .files import read_shop
from .recording import Action, Recording
from .tools import RetailTools
from .writes import WRITES

REQUEST = "I write for a customer, and I agree to whatever serves these notes of theirs: "
"""How the scripted user begins; the notes follow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """Where the recorded actions lead."""

    state: str
    """Digest of the changes to the shop."""
    refusals: tuple[tuple[int, str], ...]
    """(which action, what the shop said) for each that changed nothing."""


def replay(shop: Shop, actions: Sequence[Action]) -> Replayed:
    """The recorded actions on a fresh database. Raises `ValueError` for a call that no tool takes."""
    database = Database(shop)
    refusals: list[tuple[int, str]] = []
    for number, action in enumerate(actions):
        if action.name not in RetailTools.offered:
            raise ValueError(f"there is no tool {action.name!r}; there are {', '.join(RetailTools.offered)}")
        try:
            arguments = RetailTools.offered[action.name].signature.parse(action.kwargs)
        except WrongArguments as error:
            raise ValueError(f"recorded call of {action.name}: {error}") from error
        if action.name not in WRITES:
            continue
        try:
            WRITES[action.name](database, **arguments)
        except ToolError as error:
            refusals.append((number, str(error)))
    return Replayed(state=digest(database.changes()), refusals=tuple(refusals))


def make_tasks(
    name: str,
    shop_name: str,
    recordings: Sequence[Recording],
    rules: str | None,
    tools: tuple[ToolSpec, ...] = (),
) -> Iterator[Task]:
    """A task of each recording. Its messages end with the request of the scripted user; where a simulator
    plays, that one's words are shown instead."""
    shop = load_shop(shop_name)
    shown = shop.policy if rules is None else rules
    opening = (SystemMessage(shown),) if shown else ()
    for number, recording in enumerate(recordings):
        yield Task(
            id=f"{name}-{number}",
            messages=(*opening, UserMessage(REQUEST + recording.instruction)),
            tools=tools,
            reference={
                "state": _replay(f"{name}-{number}", shop, recording).state,
                "outputs": recording.outputs,
                "actions": [action.model_dump() for action in recording.actions],
            },
            private={"shop": shop_name, "notes": recording.instruction},
        )


def _replay(id: str, shop: Shop, recording: Recording) -> Replayed:
    try:
        return replay(shop, recording.actions)
    except ValueError as error:
        raise ValueError(f"task {id!r}: {error}") from error


def does_nothing(task: Task) -> bool:
    """An agent that does nothing and says nothing earns the maximum."""
    untouched = digest(Database(load_shop(task.private["shop"])).changes())
    return task.reference["state"] == untouched and not task.reference["outputs"]


def load_shop(name: str) -> Shop:
    """The shop that `Task.private["shop"]` names: a folder, or "demo:" and a seed. Made once a process."""
    if name.startswith("demo:"):
        return demo_shop(int(name.removeprefix("demo:")))
    return read_shop(Path(name))
