"""Questions whose answers stand in documents, found step by step with a BM25 search and a reader."""

import random
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ..budget import Budget
from ..env import Observation
from ..errors import ToolError
from ..graders import AnyGrader, Exact
from ..message import SystemMessage, UserMessage
from ..policy import Policy
from ..scripted import ScriptedPolicy, call_tool
from ..task import Task, TaskSet
from ..tools import ToolEnv, tool

INSTRUCTIONS = "Find the answer in the documents. End with one line: Answer: <answer>"
SNIPPET = 120
START = (
    "Bar",
    "Cal",
    "Dor",
    "Fen",
    "Gal",
    "Hol",
    "Kir",
    "Lor",
    "Mar",
    "Nor",
    "Pel",
    "Ros",
    "Sel",
    "Tor",
    "Wes",
)
END = ("den", "field", "ford", "ham", "mouth", "stead", "ton", "wick")
GOODS = (
    "amber",
    "barley",
    "cedar",
    "copper",
    "flax",
    "glass",
    "honey",
    "linen",
    "oil",
    "salt",
    "silk",
    "tin",
)
RIVERS = ("Aldra", "Brenn", "Corvo", "Darro", "Esk", "Ferin", "Gallo", "Hesk", "Ilmo", "Juno")


class Search(ToolEnv[Task]):
    """1 for the right last line. The documents of a task are its own, and only the tools show them."""

    grader: AnyGrader | None = Exact(prefix="Answer:", ignore_case=True)
    budget = Budget(max_turns=10)

    def __init__(self) -> None:
        self._documents: Mapping[str, str] = {}
        self._index: Any = None

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Index the task's documents."""
        self._documents = task.metadata["documents"]
        self._index = import_module("bm25s").BM25()
        self._index.index(_tokens(list(self._documents.values())), show_progress=False)
        return await super().reset(task, seed=seed)

    @tool
    async def search(self, query: str, top: int = 3) -> str:
        """Find documents by words: their titles and first lines, the best first.

        Args:
            query: a few words
            top: how many documents, at most 10
        """
        top = max(1, min(top, 10, len(self._documents)))
        found, scores = self._index.retrieve(_tokens([query]), k=top, show_progress=False)
        ranks: list[tuple[int, float]] = list(zip(found[0].tolist(), scores[0].tolist(), strict=True))
        hits = [list(self._documents)[number] for number, score in ranks if score > 0]
        return (
            "\n".join(f"{title}: {self._documents[title][:SNIPPET]}" for title in hits) or "[nothing found]"
        )

    @tool
    async def read(self, title: str) -> str:
        """Read a whole document.

        Args:
            title: as the search shows it
        """
        if title not in self._documents:
            raise ToolError(f"there is no document {title!r}; search for one first")
        return self._documents[title]

    @classmethod
    def tasks(
        cls, *, size: int = 500, num_towns: int = 20, seed: int = 0, instructions: str = INSTRUCTIONS
    ) -> TaskSet:
        """`size` questions over towns that do not exist: `num_towns` documents, and two that answer."""
        most = len(START) * len(END)
        if not 2 <= num_towns <= most:
            raise ValueError(f"num_towns={num_towns}: there are names for 2 to {most} towns")
        dice = random.Random(seed)
        system = (SystemMessage(instructions),) if instructions else ()
        return TaskSet(_task(f"{seed}-{number}", system, num_towns, dice) for number in range(size))

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Searches the town, reads where its goods come from, and reads that town's document."""
        town, source = task.metadata["way"]
        return ScriptedPolicy(
            [
                call_tool("search", query=f"market of {town}"),
                call_tool("read", title=town),
                call_tool("read", title=source),
                f"Answer: {task.reference}",
            ]
        )


def _tokens(texts: list[str]) -> Any:
    return import_module("bm25s").tokenize(texts, show_progress=False)


def _task(id: str, system: tuple[SystemMessage, ...], num_towns: int, dice: random.Random) -> Task:
    """Which river runs through the town that another town buys from?"""
    names = dice.sample([start + end for start in START for end in END], num_towns)
    rivers = {name: dice.choice(RIVERS) for name in names}
    goods = {name: dice.choice(GOODS) for name in names}
    sources = {name: dice.choice([other for other in names if other != name]) for name in names}
    documents = {
        name: f"{name} is a market town of {dice.randrange(2, 90)} hundred people, founded in "
        f"{dice.randrange(900, 1800)}. The market of {name} is known for {goods[name]}, which its "
        f"merchants buy in {sources[name]}. The river {rivers[name]} runs through the town."
        for name in names
    }
    town = dice.choice(names)
    source = sources[town]
    question = f"Which river runs through the town where the merchants of {town} buy their {goods[town]}?"
    return Task(
        id=id,
        messages=(*system, UserMessage(question)),
        reference=rivers[source],
        metadata={"documents": documents, "way": (town, source)},
    )
