from palaestra.envs import Env, Task, TaskSet, UserMessage
from palaestra.envs.graders import Exact


class Capitals(Env[Task]):
    grader = Exact(ignore_case=True)

    @classmethod
    def tasks(cls) -> TaskSet:
        capitals = {"France": "Paris", "Japan": "Tokyo"}
        asked = {name: (UserMessage(f"What is the capital of {name}?"),) for name in capitals}
        return TaskSet(Task(id=name, messages=asked[name], reference=capitals[name]) for name in capitals)
