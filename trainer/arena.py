"""What is played: the environment of a recipe, or its rows and their reward, and the split of the tasks."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..agents.chat import ChatPolicy
from ..envs import Env, TaskSet, load_env
from ..envs.dataset_env import dataset_env
from ..envs.errors import no_exit, where
from ..envs.graders import AnyGrader, UnknownReward
from ..envs.graders.load import load_any, load_code
from ..envs.row_tools import functions_of
from .recipe import Recipe
from .recipe_file import RecipeError, make_spec
from .sections.tasks import RewardSection


class Arena(NamedTuple):
    """The environment of a run and its tasks."""

    env: type[Env[Any]]
    train: TaskSet
    held_out: TaskSet
    options: Mapping[str, Any] = {}
    """Keyword arguments of the environment's class, its partners included."""

    def make_env(self) -> Env[Any]:
        """A fresh environment, for one episode."""
        return self.env(**self.options)

    async def aclose(self) -> None:
        """Close the partners' connections."""
        for option in self.options.values():
            if isinstance(option, ChatPolicy):
                await option.close()


def load_arena(recipe: Recipe) -> Arena:
    """The environment and the split of its tasks. Raises `RecipeError` and `UnknownEnv`."""
    if recipe.env is not None:
        env = load_env(recipe.env.id)
        tasks = make_tasks("env.tasks", env, recipe.env.tasks)
    else:
        env = _dataset_env(recipe)
        tasks = make_tasks("data", env, {})
    try:
        train, held_out = tasks.split(
            _num_held_out(recipe, tasks), seed=recipe.seed, keep_order=not recipe.grpo.shuffle_tasks
        )
    except ValueError as error:
        raise RecipeError(f"{recipe.source_field}.held_out: {error}") from error
    return Arena(env, train, held_out, {**recipe.source.options, **_partners(recipe)})


def _partners(recipe: Recipe) -> dict[str, ChatPolicy]:
    """They are shared by all episodes: one keeps nothing of an episode, and connects when it is asked."""
    section = recipe.env
    if section is None:
        return {}
    if twice := sorted(section.partners.keys() & section.options.keys()):
        raise RecipeError(f"env.partners.{twice[0]}: stands in env.options too; leave it out there")
    found: dict[str, ChatPolicy] = {}
    for name, partner in section.partners.items():
        try:
            found[name] = ChatPolicy(
                partner.url,
                partner.model,
                api_key_env=partner.api_key_env,
                options=partner.options,
                seed=recipe.seed,
            )
        except ValueError as error:
            raise RecipeError(f"env.partners.{name}: {error}") from error
    return found


def _dataset_env(recipe: Recipe) -> type[Env[Any]]:
    """The rows, the reward and the tools of a recipe as an environment."""
    data, reward = recipe.data, recipe.reward
    assert data is not None and reward is not None, "the recipe was validated"
    judge = _load_judge(reward)
    try:
        functions = {} if recipe.tools is None else functions_of(load_code(recipe.tools))
    except UnknownReward as error:
        raise RecipeError(f"tools: {error}") from error
    return dataset_env(
        data.path,
        judge,
        functions=functions,
        reward_range=reward.range,
        prompt=data.prompt,
        reference=data.reference,
    )


def _load_judge(reward: RewardSection) -> AnyGrader:
    call = reward.call
    if reward.sandbox:
        call["sandbox"] = make_spec("reward.sandbox", reward.sandbox)
    if twice := sorted(reward.options.keys() & call.keys()):
        raise RecipeError(f"reward.options.{twice[0]}: stands in reward too; leave it out there")
    try:
        return load_any(reward.function, **reward.options, **call)
    except UnknownReward as error:
        raise RecipeError(f"reward: {error}") from error


def _num_held_out(recipe: Recipe, tasks: TaskSet) -> int:
    """As the recipe says; where it does not, a tenth of the prompts, at most 500."""
    if recipe.source.held_out is not None:
        return recipe.source.held_out
    return min(500, max(1, len({task.question for task in tasks}) // 10))


def call(field: str, function: Callable[..., object], arguments: Mapping[str, Any]) -> object:
    """A user's function with arguments from `field`. Raises `RecipeError`."""
    signature = inspect.signature(function)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "nothing"
        raise RecipeError(f"{field}: {error}; {function.__qualname__} takes: {known}") from error
    try:
        with no_exit():
            return function(**arguments)
    except ModuleNotFoundError:
        raise  # `palaestra` names the extra that brings it
    except (ValueError, OSError, NotImplementedError) as error:
        raise RecipeError(f"{field}: {error}") from error
    except Exception as error:  # code that is not ours: where it broke is what its author looks for
        raise RecipeError(f"{field}: {type(error).__name__}: {error}, {where(error)}") from error


def make_tasks(field: str, env: type[Env[Any]], options: Mapping[str, Any]) -> TaskSet:
    """All tasks of an environment, one at least. Raises `RecipeError`, which names `field`."""
    tasks = call(field, env.tasks, options)
    if not isinstance(tasks, TaskSet):
        kind = type(tasks).__name__
        raise RecipeError(f"{field}: {env.__name__}.tasks returned {kind}; let it return TaskSet(tasks)")
    if not tasks:
        raise RecipeError(f"{field}: {env.__name__}.tasks made no task; ask for some")
    return tasks
