"""Every generator of reasoning-gym, with its own scorer."""

from typing import Any

import pytest
from support import run_async

from palaestra.envs import Episode, Outcome, Policy, Scored, ScriptedPolicy, StopReason, Task, play
from palaestra.envs.adapters.reasoning_gym import EVALUATES, ReasoningGym, evaluates, is_harmless
from palaestra.envs.check import check_env
from palaestra.envs.graders import grade_episode

reasoning_gym: Any = pytest.importorskip("reasoning_gym", reason="needs the extra `catalog`")
ONLY_JUDGED = {"boxnet", "rush_hour"}
"""Generators that show no answer of their own."""
MIXED = {"datasets": [{"name": "chain_sum", "weight": 2}, {"name": "countdown"}]}


def config(generator: str) -> dict[str, Any]:
    return MIXED if generator == "composite" else {}


def all_generators() -> list[str]:
    return sorted(reasoning_gym.factory.DATASETS)


async def outcome(task: Task, policy: Policy) -> Outcome:
    env = ReasoningGym()
    episode = await play(env, policy, task, seed=0)
    return await grade_episode(env.grader, task, episode, reward_range=env.reward_range)


def reward(task: Task, said: str) -> float:
    result = run_async(outcome(task, ScriptedPolicy([f"<answer>{said}</answer>"])))
    assert isinstance(result, Scored), result
    return result.reward


def test_an_episode_without_any_answer_is_the_floor_and_not_ungraded() -> None:
    (task,) = ReasoningGym.tasks(generator="chain_sum", size=1)
    silent = Episode(
        task_id=task.id, seed=0, messages=task.messages, num_opening=2, stop=StopReason.MAX_TURNS
    )
    found = run_async(grade_episode(ReasoningGym.grader, task, silent))
    assert found == Scored(reward=0.0, evidence="no <answer>...</answer> in the last message")


# A scorer reads an empty matrix, and the package of ARC leaves a file open.
@pytest.mark.filterwarnings("ignore:loadtxt", "ignore:Exception ignored in")
def test_the_answer_of_every_generator_earns_the_maximum_and_silence_the_floor() -> None:
    async def main() -> dict[str, list[Outcome]]:
        results: dict[str, list[Outcome]] = {}
        for generator in all_generators():
            tasks = ReasoningGym.tasks(generator=generator, config=config(generator), size=2, seed=3)
            if tasks[0].reference is None:
                continue
            results[generator] = [
                await outcome(task, policy)
                for task in tasks
                for policy in (ReasoningGym.oracle(task), ScriptedPolicy([]))
            ]
        return results

    results = run_async(main())
    assert set(all_generators()) - set(results) == ONLY_JUDGED and len(results) > 100
    for generator, outcomes in results.items():
        rewards = [found.reward if isinstance(found, Scored) else found for found in outcomes]
        assert rewards == [1.0, 0.0, 1.0, 0.0], generator


@pytest.mark.parametrize("generator", sorted(ONLY_JUDGED))
def test_a_generator_that_shows_no_answer_judges_all_the_same(generator: str) -> None:
    (task,) = ReasoningGym.tasks(generator=generator, size=1)
    assert reward(task, "nonsense") < 0.1
    with pytest.raises(ValueError, match="its generator shows no answer"):
        ReasoningGym.oracle(task)


def test_the_generators_whose_scorers_evaluate_text_are_the_ones_we_know() -> None:
    """A new version of reasoning-gym that brings another one fails here, and is refused at run time."""
    found = {name for name, (kind, _) in reasoning_gym.factory.DATASETS.items() if evaluates(kind)}
    assert found == EVALUATES


@pytest.mark.parametrize(
    ("generator", "answer", "expected"),
    [
        ("countdown", "3*(4 + 5) - 6/2", True),
        ("countdown", "__import__('os').system('true')", False),
        ("countdown", "eval(chr(49))", False),
        ("countdown", "S.Half", False),
        ("countdown", "(lambda: 1)()", False),
        ("simple_integration", "x**2/2 + sin(x)*exp(-x) + C", True),
        ("simple_integration", "x.__class__", False),
        ("n_queens", "[['Q', '_'], ['_', 'Q']]", True),
        ("n_queens", "_ Q _\nQ _ _", True),
        ("n_queens", "[print(1)]", False),
        ("spiral_matrix", "[1, -2, 3]", True),
        ("spiral_matrix", "[x for x in open('a')]", False),
        ("string_insertion", "exit()", False),
        ("chain_sum", "exit()", True),
    ],
)
def test_a_scorer_that_evaluates_sees_only_harmless_answers(
    generator: str, answer: str, expected: bool
) -> None:
    assert is_harmless(generator, answer) is expected


def test_hostile_answers_score_nothing_and_leave_the_scorer_whole() -> None:
    countdown = ReasoningGym.tasks(generator="countdown", size=1)[0]
    queens = ReasoningGym.tasks(generator="n_queens", size=1)[0]
    composite = ReasoningGym.tasks(generator="composite", config=MIXED, size=8)
    mixed = next(
        task for task in composite if task.private["entry"]["metadata"]["source_dataset"] == "countdown"
    )
    for task in (countdown, queens, mixed):
        assert reward(task, "exit()") == reward(task, "__import__('os')._exit(0)") == 0.0
        assert reward(task, str(task.reference)) == 1.0
    assert reward(countdown, "9**9**9**9") < 0.1
    assert reward(countdown, "1" * 30_000) == 0.0
    logic = ReasoningGym.tasks(generator="propositional_logic", size=1)[0]
    assert reward(logic, "(" * 5000 + "P" + ")" * 5000) < 0.1


def test_many_lines_and_the_last_of_several_answers() -> None:
    sudoku = ReasoningGym.tasks(generator="mini_sudoku", size=1)[0]
    assert "\n" in str(sudoku.reference)
    assert reward(sudoku, f"nonsense</answer> No: <answer>\n{sudoku.reference}\n") == 1.0


def test_it_passes_every_check() -> None:
    options = {"generator": "mini_sudoku", "size": 100}
    report = run_async(check_env(ReasoningGym, num_tasks=20, task_options=options))
    assert report.passed, report


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"generator": "no_such"}, "generator='no_such'"),
        ({"generator": "chain_sum", "config": {"no_such": 1}}, "no_such"),
        ({"generator": "composite"}, "generator='composite'"),
    ],
)
def test_what_no_generator_takes_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ReasoningGym.tasks(**options, size=2)


def test_the_same_seed_gives_the_same_tasks() -> None:
    one, same, other = (ReasoningGym.tasks(generator="maze", size=3, seed=seed) for seed in (1, 1, 2))
    assert [task.messages for task in one] == [task.messages for task in same]
    assert [task.messages for task in one] != [task.messages for task in other]
