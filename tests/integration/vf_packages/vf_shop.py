"""A verifiers package with a tool. Knows nothing of Palaestra."""

import verifiers as vf
from datasets import Dataset


async def price(fruit: str) -> str:
    """The price of a fruit in cents."""
    if fruit == "crash":
        raise RuntimeError("no such shelf")
    return {"fig": "12", "plum": "7"}[fruit]


def right(completion, answer, **kwargs) -> float:
    return float(completion[-1].content == answer)


def load_environment():
    rows = [{"question": "What do a fig and a plum cost?", "answer": "19"}]
    return vf.ToolEnv(
        dataset=Dataset.from_list(rows), tools=[price], rubric=vf.Rubric(funcs=[right]), max_turns=6
    )
