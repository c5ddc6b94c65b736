"""`palaestra check env|engine|files|judge|recipe|reward|sandbox`: prove a part before a run depends on it."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table
from rich.text import Text

from ..envs import Env, load_env
from ..envs.check import Check, check_env
from ..envs.leaks import find_leaks
from ..trainer.arena import make_tasks
from ..trainer.preflight import preflight
from ..trainer.recipe_file import RecipeError, load_recipe
from ..trainer.yaml_text import read_yaml
from .console import only_json, open_console, print_json
from .options import ApiKeyEnv, Json, ModelName, Prompt, RecipePath, Reference, Sets
from .progress import TerminalProgress

check = typer.Typer(
    help="Prove a part before a run depends on it.", no_args_is_help=True, rich_markup_mode=None
)


@check.command("recipe")
def check_recipe(recipe: RecipePath, overrides: Sets = None, as_json: Json = False) -> None:
    """Every field of a recipe, its environment, tasks, loss, sandbox and engine; nothing is run."""
    loaded = load_recipe(recipe, overrides or ())
    with only_json(as_json):
        arena = asyncio.run(preflight(loaded))
    rows = [
        _row("fields", f"{recipe} is a recipe"),
        _row("environment", f"{loaded.source.id} is {arena.env.__module__}.{arena.env.__qualname__}"),
        _row("tasks", f"{len(arena.train)} to train on, {len(arena.held_out)} held out"),
        _row("parts", "what the run needs of this machine is there"),
    ]
    _finish(f"recipe {loaded.name}", rows, as_json)


@check.command("env")
def check_environment(
    name: Annotated[str, typer.Argument(help='A registered environment, or "module:Class".')],
    tasks: Annotated[int, typer.Option(min=1, help="Tasks to play.")] = 20,
    options: Annotated[str, typer.Option(help="Options of its task set, such as '{size: 100}'.")] = "{}",
    as_json: Json = False,
) -> None:
    """Oracle, floor, determinism, isolation, teardown, and leaks by messages or files."""
    with only_json(as_json):
        env = load_env(name)
        found = _tasks_of(env, options)
        report = asyncio.run(check_env(env, num_tasks=tasks, task_options=found))
    _finish(f"environment {name}", report.checks, as_json)


@check.command("files")
def check_files(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What a policy will find.")],
    canary: Annotated[list[str] | None, typer.Option(help="A text that may stand nowhere.")] = None,
    base: Annotated[str, typer.Option(help="The commit that repositories begin at.")] = "HEAD",
    allow: Annotated[list[str] | None, typer.Option(help="A pattern of places that are right.")] = None,
    as_json: Json = False,
) -> None:
    """Future commits, solutions, caches and secrets in the files of a task, before it ships."""
    try:
        with only_json(as_json):
            found = find_leaks(folder, secrets=canary or (), base=base, allow=allow or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    rows = [_row(leak.place, leak.why, passed=False) for leak in found]
    _finish(f"files {folder}", rows or [_row("leaks", "none was found")], as_json)


@check.command("sandbox")
def check_sandbox(
    backend: Annotated[
        str, typer.Option(help='"auto", "namespaces", "landlock", "docker" or an installed one.')
    ] = "auto",
    full: Annotated[
        bool, typer.Option("--full", help="Run the whole conformance suite too; it takes minutes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove the walls of a sandbox tier on this machine; say who enforces its limits and how fast it is."""
    from .check_sandbox import check_tiers

    with TerminalProgress(open_console(stderr=True)) if full else nullcontext() as progress:
        report = asyncio.run(check_tiers(backend, progress))
    _finish(
        f"sandbox {report.tier or backend}",
        report.checks,
        as_json,
        report.facts,
        passed=report.passed,
    )


@check.command("engine")
def check_engine(
    recipe: RecipePath,
    model: Annotated[Path | None, typer.Option(help="A model folder; default: the recipe's.")] = None,
    overrides: Sets = None,
    as_json: Json = False,
) -> None:
    """Start a recipe's engine and compare its log-probabilities with the learner's."""
    from ..trainer.engine_check import compare_engine

    loaded = load_recipe(recipe, overrides or ())
    with only_json(as_json), TerminalProgress(open_console(stderr=True)) as progress:
        report = asyncio.run(compare_engine(loaded, model, progress))
    apart = f"differ by up to {report.drift:.1e} nats from the learner's, {report.mean_drift:.1e} in the mean"
    rows = [
        _row("starts", f"{report.kind}, {report.max_context} tokens of context"),
        _row("same seed, same tokens", "alone and in a batch", report.is_repeatable),
        _row("log-probabilities", f"{apart}; bound {report.bound}", report.is_close),
    ]
    facts = {
        "max_context": report.max_context,
        "drift": report.drift,
        "mean_drift": report.mean_drift,
        "bound": report.bound.largest,
        "mean_bound": report.bound.mean,
    }
    _finish(f"engine {report.kind}", rows, as_json, facts)


@check.command("judge")
def check_judge(
    judge: Annotated[str, typer.Argument(help='"my_judges.py:name", or a template such as "summary".')],
    labels: Annotated[Path | None, typer.Option(help="JSONL of rows that people have labelled.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Labelled rows to ask about.")] = 200,
    url: Annotated[str | None, typer.Option(help="For a template: the chat endpoint.")] = None,
    model_name: ModelName = "",
    api_key_env: ApiKeyEnv = None,
    min_kappa: Annotated[float, typer.Option(help="Agreement with people to reach.")] = 0.4,
    min_consistency: Annotated[float, typer.Option(help="Share of verdicts that stay.")] = 0.9,
    as_json: Json = False,
) -> None:
    """Agreement of a judge with people, its consistency, and what it pays to those who would fool it."""
    from ..envs.graders.judge.check import Bars
    from .check_judge import Bench, measure

    bench = Bench(judge=judge, url=url, model_name=model_name, api_key_env=api_key_env)
    bars = Bars(kappa=min_kappa, consistency=min_consistency)
    with only_json(as_json), TerminalProgress(open_console(stderr=True)) as progress:
        report = asyncio.run(measure(bench, labels, rows, bars, progress))
    spent = report.spent
    cost = (
        f"{spent.num_asked} replies, {spent.prompt_tokens} + {spent.sampled_tokens} tokens, {spent.cost:.4g}"
    )
    facts = {**report.facts, "tokens": spent.prompt_tokens + spent.sampled_tokens, "cost": spent.cost}
    _finish(f"judge {judge}", [*report.checks, _row("cost", cost)], as_json, facts)


@check.command("reward")
def check_reward(
    reward: Annotated[str, typer.Argument(help='"my_rewards.py:score", or a preset such as "numeric".')],
    data: Annotated[str | None, typer.Option(help="A dataset of tasks with their references.")] = None,
    prompt: Prompt = None,
    reference: Reference = None,
    env: Annotated[str | None, typer.Option(help="An environment, whose oracle gives the answers.")] = None,
    gold: Annotated[
        str | None, typer.Option(help="Field of --data with a right answer: reference_answer.answer.")
    ] = None,
    options: Annotated[
        str, typer.Option(help="Fields of a preset or a class, or of the call: '{rel_tol: 0.02}'.")
    ] = "{}",
    tasks: Annotated[int, typer.Option(min=1, help="Tasks to try.")] = 20,
    floor: Annotated[float, typer.Option(help="Lowest reward.")] = 0.0,
    maximum: Annotated[float, typer.Option(help="Highest reward, which a right answer earns.")] = 1.0,
    max_seconds: Annotated[float, typer.Option(help="A grade may take.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Right, wrong, empty, spam and injected answers, and programs that attack a grader of programs."""
    from .check_reward import Rows, find_cases, try_reward

    fields = _mapping(options, "the fields of the reward", "{rel_tol: 0.02}")
    source = Rows(data=data, prompt=prompt, reference=reference, gold=gold) if data is not None else None
    with only_json(as_json), TerminalProgress(open_console(stderr=True)) as progress:
        cases = asyncio.run(find_cases(source, env, tasks))
        rows = asyncio.run(
            try_reward(
                reward,
                fields,
                cases,
                reward_range=(floor, maximum),
                max_grade_s=max_seconds,
                progress=progress,
            )
        )
    _finish(f"reward {reward}", rows, as_json)


def _tasks_of(env: type[Env[Any]], options: str) -> dict[str, Any]:
    """The options as keyword arguments, when the environment makes tasks of them. Raises `RecipeError`."""
    mapping = _mapping(options, f"the arguments of {env.__name__}.tasks", "{size: 100}")
    make_tasks(f"--options {options!r}", env, mapping)
    return mapping


def _mapping(options: str, what: str, example: str) -> dict[str, Any]:
    """Raises `RecipeError`."""
    try:
        mapping = dict[Any, Any](read_yaml(options))
        if odd := [name for name in mapping if not isinstance(name, str)]:
            raise TypeError(f"the name {odd[0]!r} is no text")
        return mapping
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise RecipeError(
            f"--options {options!r}: {error}; write {what} as a mapping, such as '{example}'"
        ) from error


def _row(name: str, detail: str, passed: bool = True) -> Check:
    return Check(name=name, passed=passed, detail=detail)


def _finish(
    title: str,
    checks: Sequence[Check],
    as_json: bool,
    facts: Mapping[str, Any] | None = None,
    *,
    passed: bool | None = None,
) -> None:
    """Print the rows; exit code 1 when one of them failed, or `passed` says so."""
    if passed is None:
        passed = all(check.passed for check in checks)
    if as_json:
        rows = [dataclasses.asdict(check) for check in checks]
        print_json({"title": title, "passed": passed, "checks": rows, **(facts or {})})
    else:
        table = Table("check", "", "detail", title=Text(title))
        for check in checks:
            verdict = Text("ok", "green") if check.passed else Text("FAILED", "red")
            table.add_row(Text(check.name), verdict, Text(check.detail))
        open_console().print(table)
    if not passed:
        raise typer.Exit(1)
