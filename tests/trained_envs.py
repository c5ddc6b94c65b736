"""Environments for whole training runs, which load them by "trained_envs:Class"."""

from dataclasses import dataclass

from palaestra.envs import AssistantMessage, Env, Episode, Score, Task
from palaestra.envs.catalog.arithmetic import Arithmetic, ShortAnswer
from palaestra.envs.episode import Workspace
from palaestra.envs.graders import Grader


@dataclass(frozen=True, slots=True)
class Digits:
    """The maximum for a right answer; otherwise some credit for digits, which a random model earns too."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        score = await ShortAnswer().grade(task, episode, workspace)
        said = "".join(m.content for m in episode.messages if isinstance(m, AssistantMessage))
        share = sum(char.isdigit() for char in said) / (1 + len(said))
        return Score(reward=max(score.reward, share / 2))


class Sums(Arithmetic):
    """Siblings nearly always differ in reward, so that every step has something to learn."""

    grader: Grader | None = Digits()
