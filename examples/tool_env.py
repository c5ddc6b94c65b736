from palaestra.envs import Task, TaskSet, ToolEnv, ToolError, UserMessage, tool
from palaestra.envs.graders import Numeric

STOCK = {"apples": 12, "pears": 0, "plums": 7}


class Shop(ToolEnv[Task]):
    grader = Numeric()

    @tool
    async def count(self, fruit: str) -> int:
        """How many of a fruit are in stock.

        Args:
            fruit: its plural, in lower case
        """
        if fruit not in STOCK:
            raise ToolError(f"no {fruit!r} here; there are {', '.join(STOCK)}")
        return STOCK[fruit]

    @classmethod
    def tasks(cls) -> TaskSet:
        question = (UserMessage("How many apples and plums are there together?"),)
        return TaskSet([Task(id="sum", messages=question, reference=19)])
