"""A shop's service agent: it talks to a user, looks things up, and changes orders as the policy allows."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...budget import Budget
from ...env import Observation, Step
from ...episode import Episode, Workspace
from ...graders.grading import AnyGrader
from ...message import AssistantMessage, SystemMessage, UserMessage
from ...outcome import Score
from ...policy import Policy
from ...scripted import ScriptedPolicy, call_tool
from ...task import Task, TaskSet
from ...user import GREETING, ScriptedUser, UserSimulator
from .database import Database, canonical
from .files import read_recordings, read_specs
from .tasks import REQUEST, does_nothing, load_shop, make_tasks
from .tools import RetailTools
from .wishes import demo_recordings

CHANGES = "changes.json"
"""In the episode's workspace: what the episode made of the database, as canonical JSON."""


@dataclass(frozen=True, slots=True)
class FinalState:
    """1 when the database ended as the recorded actions leave it and the user was told what it asked for."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        files = {} if workspace is None else dict(workspace.files)
        if CHANGES not in files:
            raise ValueError(f"the episode's workspace has no {CHANGES}; Retail leaves one behind")
        state = hashlib.sha256(files[CHANGES]).hexdigest()
        said = [answer.content for answer in episode.answers if not _is_call(answer)]
        untold = [
            text for text in task.reference["outputs"] if not any(_is_told(text, words) for words in said)
        ]
        parts = {"database": float(state == task.reference["state"]), "outputs": float(not untold)}
        evidence = f"not told: {', '.join(untold)}" if untold else ""
        return Score(reward=min(parts.values()), components=parts, evidence=evidence)


def _is_call(said: AssistantMessage) -> bool:
    """Words beside a call do not reach the user."""
    return bool(said.tool_calls or said.bad_calls)


def _is_told(text: str, said: str) -> bool:
    """As a word of its own: 10 is not told by 310 or 10.50. Commas and case do not matter.

    >>> _is_told("1000", "it costs 1,000.")
    True
    """
    wanted, words = (part.lower().replace(",", "") for part in (text, said))
    return re.search(rf"(?<![\w.]){re.escape(wanted)}(?!\w|\.\d)", words) is not None


class Retail(RetailTools):
    """The words of a message without calls go to the user, who answers, or ends the conversation."""

    grader: AnyGrader | None = FinalState()
    budget = Budget(max_turns=30)

    def __init__(self, *, user: Policy | None = None) -> None:
        """`user` plays the customer, with the task's notes as its system message. Without one, the customer
        tells all of its notes at once and agrees to everything."""
        self._user_policy = user
        self._num_user_turns = 0

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The shop as it was, the policy, and the user's first words."""
        self.database = Database(load_shop(task.private["shop"]))
        notes: str = task.private["notes"]
        policy = self._user_policy or ScriptedUser(REQUEST + notes)
        self._user = UserSimulator(self.partner(policy), notes=notes)
        first = await self._user.answer(GREETING)
        if first is None:
            raise RuntimeError("the simulated user ended the conversation before it had begun")
        rules = tuple(message for message in task.messages if isinstance(message, SystemMessage))
        tools = task.tools or tuple(item.spec for item in self.offered.values())
        return Observation(messages=(*rules, UserMessage(first)), tools=tools)

    async def step(self, action: AssistantMessage) -> Step:
        """Calls are answered by the tools, everything else by the user."""
        if _is_call(action):
            answered = await super().step(action)
            return answered._replace(terminated=self.is_transferred)
        self._num_user_turns += 1
        reply = await self._user.answer(action.content)
        messages = () if reply is None else (UserMessage(reply),)
        return Step(Observation(messages=messages), 0.0, reply is None, False, {})

    async def workspace(self) -> Workspace | None:
        """What the episode changed."""
        return Workspace(files=((CHANGES, canonical(self.database.changes())),))

    def facts(self) -> Mapping[str, str]:
        """How often the agent spoke to the user."""
        return {"user_turns": str(self._num_user_turns)}

    @classmethod
    def tasks(
        cls,
        *,
        path: str | None = None,
        split: str = "train",
        size: int = 40,
        seed: int = 0,
        rules: str | None = None,
        keep_idle: bool = False,
    ) -> TaskSet:
        """The tasks of a folder with tau-bench's retail files; without `path`, `size` tasks of a small shop
        made by `seed`.

        `rules` is shown in place of the shop's own policy text; "" shows none. Tasks whose recording changes
        nothing are left out, because doing nothing would solve them; `keep_idle` keeps them.
        """
        if path is None:
            made = make_tasks(f"demo-{seed}", f"demo:{seed}", demo_recordings(seed, size), rules)
        else:
            folder = Path(path).expanduser().resolve()
            specs = read_specs(folder)
            made = make_tasks(split, str(folder), read_recordings(folder, split), rules, specs)
        return TaskSet(task for task in made if keep_idle or not does_nothing(task))

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Replays the recorded actions, then says what the user must be told."""
        calls = [call_tool(action["name"], **action["kwargs"]) for action in task.reference["actions"]]
        return ScriptedPolicy([*calls, ". ".join(["That is done", *task.reference["outputs"]])])
