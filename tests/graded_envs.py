"""Environments whose graders run in processes of their own: "graded_envs:Shouting"."""

import os

from palaestra.envs import Env, Episode, Score, Task, Workspace


class Loud:
    """Reads the last answer aloud, when it is well."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        print("reading")  # must not get into the answer, nor what its processes print
        os.write(1, b"aloud\n")
        if os.environ.get("GRADED_ENVS") == "broken":
            raise ValueError("the judge is ill")
        return Score(reward=1.0, evidence=episode.answers[-1].content.upper())


class Shouting(Env[Task]):
    """Its grader is what matters."""

    grader = Loud()
