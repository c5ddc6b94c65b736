"""The game of guesses: what it says, what it pays, and that its optimum is what it says."""

from collections import Counter
from functools import cache

import pytest
from support import run_async

from palaestra.envs import AssistantMessage, Episode, Policy, ScriptedPolicy, StopReason, Task, play
from palaestra.envs.catalog.number_guessing import NumberGuessing
from palaestra.envs.check import check_env


def game(policy: Policy, secret: int, highest: int = 7) -> Episode:
    task = Task(id="a", reference=secret, metadata={"highest": highest})
    return run_async(play(NumberGuessing(), policy, task, seed=0))


@cache
def most_found(numbers: int, guesses: int) -> int:
    """How many of so many numbers the best player finds; by trying every first guess."""
    if not numbers or not guesses:
        return 0
    return max(
        1 + most_found(guess - 1, guesses - 1) + most_found(numbers - guess, guesses - 1)
        for guess in range(1, numbers + 1)
    )


@pytest.mark.parametrize("highest", [1, 2, 7, 8, 100])
def test_the_oracle_finds_every_number_and_with_a_guess_less_nobody_would(highest: int) -> None:
    guesses = highest.bit_length()
    assert most_found(highest, guesses) == highest > most_found(highest, guesses - 1)
    for secret in range(1, highest + 1):
        task = Task(id="a", reference=secret, metadata={"highest": highest})
        episode = game(NumberGuessing.oracle(task), secret, highest)
        assert sum(episode.rewards) == 1.0 and episode.num_turns <= guesses


def test_number_guessing_passes_every_check() -> None:
    report = run_async(check_env(NumberGuessing, num_tasks=50))
    assert report.passed, report
    report = run_async(check_env(NumberGuessing, num_tasks=5, task_options={"highest": 1000}))
    assert report.passed, report


def test_wrong_guesses_are_told_where_to_look_and_the_third_ends_the_game() -> None:
    episode = game(ScriptedPolicy(["4", "I say 6.", "7", "5"]), 5)
    said = [message.content for message in episode.messages if not isinstance(message, AssistantMessage)]
    assert said == ["Higher than 4.", "Lower than 6."]
    assert episode.rewards == (0.0, 0.0, 0.0) and episode.stop is StopReason.DONE
    assert game(ScriptedPolicy(["4", "6", "5"]), 5).rewards == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("said", ["", "no", "5 or 6", "1 2 3 4 5 6 7", "5" * 5000, "-", "९"])
def test_what_is_not_one_number_is_a_guess_that_misses(said: str) -> None:
    episode = game(ScriptedPolicy([said] * 9), 5)
    assert episode.rewards == (0.0, 0.0, 0.0) and episode.failure is None
    assert episode.messages[1].content == "Answer with one number."


def test_every_number_comes_equally_often_and_the_seed_says_when() -> None:
    tasks = NumberGuessing.tasks(size=700, seed=3)
    assert set(Counter(task.reference for task in tasks).values()) == {100}
    assert len({task.prompt_text for task in tasks}) == 700
    assert [task.reference for task in tasks] != [
        task.reference for task in NumberGuessing.tasks(size=700, seed=4)
    ]
    with pytest.raises(ValueError, match="highest=0"):
        NumberGuessing.tasks(highest=0)
