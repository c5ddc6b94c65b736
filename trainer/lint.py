"""What a recipe says and hardly means: allowed, and yet most who write it regret it.

What cannot be right is an error of `recipe_file.py`. A rule here is one function; it is told what is known
before a model is loaded, and gives an `Advice` or None.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..agents.canary import USUAL_BOUNDS
from ..envs.graders import LambdaReward
from ..envs.graders.lambda_reward import TIMEOUT_S
from .arena import Arena
from .lint_evaluation import EVALUATION_RULES
from .lint_unread import never_read
from .recipe import Recipe
from .schedule import model_width, usual_rate
from .weights.model_size import model_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """One thing to look at again."""

    rule: str
    """The rule's name, such as "rows_below_batch"."""
    field: str
    text: str
    """The value, what follows from it, and the cure."""

    def __str__(self) -> str:
        return f"{self.field}: {self.text} ({self.rule})"


Rule = Callable[[Recipe, Arena], tuple[str, str] | None]
"""(field, words) when the recipe breaks it."""


def lint(recipe: Recipe, arena: Arena) -> list[Advice]:
    """Every rule that the recipe breaks, in the order of `RULES`."""
    broken = ((name, rule(recipe, arena)) for name, rule in RULES.items())
    return [Advice(rule=name, field=found[0], text=found[1]) for name, found in broken if found is not None]


def max_sampled(recipe: Recipe, arena: Arena) -> int | None:
    """Tokens that the policy may sample in one episode; None: as many as the context has."""
    budget = arena.env.budget.merged(recipe.source.budget)
    turns = None if budget.max_turns is None else budget.max_turns * recipe.sampling.max_tokens
    return min((limit for limit in (turns, budget.max_tokens) if limit is not None), default=None)


def _nearly_greedy(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if recipe.sampling.temperature >= 0.3:
        return None
    return (
        "sampling.temperature",
        f"{recipe.sampling.temperature:g} makes the episodes of a group nearly the same, and a group of "
        "equals teaches nothing; 1.0 is usual",
    )


def _rows_below_batch(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    wanted = recipe.grpo.tasks_per_step
    if len(arena.train) >= wanted:
        return None
    return (
        "grpo.tasks_per_step",
        f"{wanted} is more than the {len(arena.train)} training tasks, so that a step holds some of them "
        "twice; lower it, or bring more tasks",
    )


def _many_epochs(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    seen = recipe.grpo.steps * recipe.grpo.tasks_per_step / len(arena.train)
    epochs = seen if recipe.grpo.epochs is None else min(seen, recipe.grpo.epochs)
    if epochs <= 50:
        return None
    return (
        "grpo.steps",
        f"{recipe.grpo.steps} steps see each of the {len(arena.train)} training tasks {epochs:.0f} times; "
        "look at the held-out tasks as it goes (evaluation.every), or bring more tasks",
    )


def _empty_updates(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    grpo = recipe.grpo
    episodes = grpo.tasks_per_step * grpo.group_size
    if grpo.updates_per_step * 8 <= episodes or grpo.updates_per_step == 1:
        return None
    return (
        "grpo.updates_per_step",
        f"{grpo.updates_per_step} updates share {episodes} episodes, fewer than 8 each; lower it, or raise "
        "grpo.tasks_per_step",
    )


def _lonely_siblings(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    grpo = recipe.grpo
    has_baseline = grpo.kl_kind == "k1" and grpo.kl_coefficient
    if not has_baseline or grpo.group_size >= 2 * grpo.updates_per_step:
        return None
    return (
        "grpo.updates_per_step",
        f"{grpo.updates_per_step} updates part the {grpo.group_size} siblings of a group, and kl_kind: k1 "
        "has its baseline of those in the same update: none, for some, which varies more; lower it, or "
        "set kl_kind to k3",
    )


def _pair_groups(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if recipe.grpo.group_size >= 4 or recipe.grpo.advantage != "grpo":
        return None
    return (
        "grpo.group_size",
        f"{recipe.grpo.group_size} members give a standard deviation that says little; take 8 or so, or set "
        "grpo.advantage to rloo",
    )


def _answers_over_context(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    tiny = recipe.model.tiny
    made_for = tiny.max_context if tiny is not None else None
    room = min((n for n in (recipe.engine.max_context, made_for) if n is not None), default=None)
    if room is None or recipe.sampling.max_tokens < room:
        return None
    return (
        "sampling.max_tokens",
        f"{recipe.sampling.max_tokens} tokens of one answer leave nothing of the {room} of the context for a "
        "prompt, so that the context cuts answers off and not this limit; lower it",
    )


def _rate_far_off(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    lr, model = recipe.optimizer.lr, recipe.model
    if lr is None:
        return None
    if model.tiny is not None:
        width = model.tiny.hidden
    elif (folder := model_folder(recipe)) is not None:
        width = model_width(folder)
    else:
        return None  # nobody knows how wide it is
    usual = usual_rate(width, is_adapter=recipe.lora is not None)
    if lr <= 30 * usual:
        return None
    return (
        "optimizer.lr",
        f"{lr:g} is {lr / usual:.0f} times what a model of width {width} usually takes; most policies "
        f"collapse so; leave it out for {usual:.2g}",
    )


def _never_kept(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if recipe.checkpoint.every < recipe.grpo.steps or recipe.grpo.steps < 20:
        return None
    return (
        "checkpoint.every",
        f"{recipe.checkpoint.every} is not under grpo.steps={recipe.grpo.steps}: whatever stops the run "
        "before its end costs all of its learning; lower it",
    )


def _long_ones_dropped(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if recipe.grpo.truncated == "keep":
        return None
    return (
        "grpo.truncated",
        f"{recipe.grpo.truncated} leaves out what the policy itself made long, so that it learns to make bad "
        "episodes long; keep is without that bias, and grpo.overlong makes length cost something",
    )


def _lost_ones_replaced(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if not recipe.grpo.refill:
        return None
    return (
        "grpo.refill",
        f"{recipe.grpo.refill} makes groups of what could be graded: what breaks when an episode is long or "
        "odd is not seen any more; look at lost_share and refill_shift, and 0 hides nothing",
    )


def _never_overlong(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    overlong = recipe.grpo.overlong
    most = max_sampled(recipe, arena)
    if overlong is None or most is None or most > overlong.max_tokens - overlong.cache_tokens:
        return None
    return (
        "grpo.overlong",
        f"begins behind {overlong.max_tokens - overlong.cache_tokens} tokens, and an episode has {most} at "
        "most, so that nobody ever pays; lower max_tokens",
    )


def _late_ones_dropped(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if recipe.grading is None or recipe.grading.close == "wait":
        return None
    return (
        "grading.close",
        f"{recipe.grading.close} leaves out what takes long to grade, which may be the hard tasks; wait is "
        "without that bias",
    )


def _no_second_call(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    reward, grader = recipe.reward, arena.env.grader
    if reward is None or reward.batch == 1 or not (reward.timeout_s or isinstance(grader, LambdaReward)):
        return None
    call_s, limit_s = reward.timeout_s or TIMEOUT_S, recipe.source.grader_timeout_s
    if recipe.grading is not None or 2 * call_s <= limit_s:
        return None
    return (
        "reward.timeout_s",
        f"{call_s:g} is over half of data.grader_timeout_s={limit_s:g}: where one answer hangs a call of "
        "several, there is no time to ask for the others again; lower it, or raise data.grader_timeout_s",
    )


def _ends_before_its_epochs(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    epochs, seen = recipe.grpo.epochs, recipe.grpo.steps * recipe.grpo.tasks_per_step / len(arena.train)
    if epochs is None or epochs <= seen:
        return None
    return (
        "grpo.steps",
        f"{recipe.grpo.steps} steps are {seen:.2g} of the {epochs:g} epochs, so that grpo.epochs says "
        "nothing; raise grpo.steps, or leave grpo.epochs out",
    )


def _not_repeatable(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if not recipe.deterministic or recipe.engine.kind == "local":
        return None
    return (
        "deterministic",
        f"true does not reach engine.kind: {recipe.engine.kind}, whose batches may differ from run to run; "
        "set engine.kind to local, or leave it out",
    )


def _shuffled(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if not recipe.grpo.shuffle_rewards:
        return None
    return (
        "grpo.shuffle_rewards",
        "true is the control experiment, in which nothing can be learned; leave it out to train",
    )


def _canary_below_rounding(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    bound, usual = recipe.engine.canary_bound, USUAL_BOUNDS[recipe.model.dtype]
    if bound is None or usual.mean is None or recipe.engine.kind == "local" or bound >= usual.largest:
        return None
    return (
        "engine.canary_bound",
        f"{bound:g} is less than rounding moves single tokens in {recipe.model.dtype}, so that the "
        f"right weights may be refused; leave it out for a bound on the mean, {usual.mean:g}",
    )


RULES: dict[str, Rule] = {
    "nearly_greedy": _nearly_greedy,
    "rows_below_batch": _rows_below_batch,
    "many_epochs": _many_epochs,
    "empty_updates": _empty_updates,
    "lonely_siblings": _lonely_siblings,
    "pair_groups": _pair_groups,
    "answers_over_context": _answers_over_context,
    "rate_far_off": _rate_far_off,
    "never_kept": _never_kept,
    "long_ones_dropped": _long_ones_dropped,
    "lost_ones_replaced": _lost_ones_replaced,
    "never_overlong": _never_overlong,
    "late_ones_dropped": _late_ones_dropped,
    "no_second_call": _no_second_call,
    "ends_before_its_epochs": _ends_before_its_epochs,
    "not_repeatable": _not_repeatable,
    "canary_below_rounding": _canary_below_rounding,
    "shuffled": _shuffled,
    "never_read": never_read,
    **EVALUATION_RULES,
}
