"""The script with all of GRPO in it: its parts, and a run that is too short to learn."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on two, and much slower beside other work."""
    untyped: Any = torch
    before = untyped.get_num_threads()
    untyped.set_num_threads(1)
    yield
    untyped.set_num_threads(before)


@cache
def script() -> Any:
    spec = importlib.util.spec_from_file_location("grpo", ROOT / "examples" / "grpo_from_scratch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_agent(**numbers: int) -> tuple[Any, list[Any]]:
    """(an agent with random weights, a few tasks)"""
    grpo = script()
    torch.default_generator.manual_seed(0)
    tasks: list[Any] = list(islice(grpo.task_stream(seed=3), 6))
    tokenizer = grpo.build_tokenizer(tasks)
    model = grpo.build_model(tokenizer.get_vocab_size())
    return grpo.Agent(model=model, tokenizer=tokenizer, recipe=grpo.Recipe(**numbers)), tasks


@pytest.mark.parametrize(
    ("said", "reaction"),
    [
        ("Action: python\nAction Input: print(15 - 43 - 75)", "-> -103"),
        ("Action: python\nAction Input: print(15 - )", "-> error: SyntaxError"),
        ("Action: python\nAction Input: __import__('os')", "-> error: SyntaxError"),
        ("Answer: -103", 1.0),
        ("Answer: 103", 0.0),
        ("I do not know", "-> error: no action"),
    ],
)
def test_the_environment_reacts(said: str, reaction: str | float) -> None:
    assert script().react(script().Task(question="", reference="-103"), said) == reaction


def test_the_oracle_is_right_and_its_calls_give_the_reference() -> None:
    for task in islice(script().task_stream(seed=4), 50):
        call, answer = task.oracle
        assert script().react(task, call) == f"-> {task.reference}"
        assert script().react(task, answer) == 1.0


def test_what_is_trained_is_what_was_sampled_with_the_logprobs_of_the_sampler() -> None:
    agent, tasks = tiny_agent(max_new_tokens=5, max_turns=2)
    episodes = script().play(agent, tasks)
    for episode in episodes:
        assert len(episode.ids) == len(episode.sampled) == len(episode.logprobs)
        assert sum(episode.sampled) <= 2 * 5 and not episode.sampled[0]
    sampled = [p for e in episodes for p, is_sampled in zip(e.logprobs, e.sampled, strict=True) if is_sampled]
    with torch.no_grad():
        found = -script().losses(agent, episodes)
    torch.testing.assert_close(found, torch.tensor(sampled), atol=1e-5, rtol=0)


def test_a_demonstration_is_what_the_oracle_would_have_seen_and_said() -> None:
    agent, (task, *_) = tiny_agent()
    demonstration = script().demonstrate(agent, task)
    assert agent.tokenizer.decode(demonstration.ids, skip_special_tokens=False) == (
        f"<|im_start|>user\n{task.question}<|im_end|>\n<|im_start|>assistant\n{task.oracle[0]}<|im_end|>\n"
        f"<|im_start|>tool\n-> {task.reference}<|im_end|>\n<|im_start|>assistant\n{task.oracle[1]}<|im_end|>"
    )
    trained = [
        id for id, is_trained in zip(demonstration.ids, demonstration.sampled, strict=True) if is_trained
    ]
    said = agent.tokenizer.decode(trained, skip_special_tokens=False)
    assert said == "".join(f"{turn}<|im_end|>" for turn in task.oracle)


def test_a_step_makes_what_was_better_than_its_siblings_likelier_and_the_rest_less_likely() -> None:
    agent, tasks = tiny_agent(max_new_tokens=5, max_turns=1)
    grpo = script()
    episodes = grpo.play(agent, tasks[:1] * 4)
    advantages = grpo.group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert float(advantages.sum()) == pytest.approx(0.0, abs=1e-5)
    better, worse = episodes[:1], episodes[1:]
    before = [float(grpo.losses(agent, part).detach().mean()) for part in (better, worse)]
    loss = grpo.ppo_clip(agent, episodes, advantages.flatten().tolist())
    grpo.update(agent, grpo.build_optimizer(agent), loss, 1e-3)
    after = [float(grpo.losses(agent, part).detach().mean()) for part in (better, worse)]
    assert after[0] < before[0] and after[1] > before[1]


def test_groups_whose_members_agree_teach_nothing() -> None:
    assert script().group_advantages(torch.tensor([[1.0, 1.0], [0.0, 0.0]])).abs().max() == 0.0


@pytest.mark.parametrize("control", [[], ["--shuffle-rewards"]])
def test_a_short_run_through_its_flags(
    control: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["--seed", "1", "--steps", "2", "--warm-steps", "2", "--num-held-out", "8"]
    monkeypatch.setattr(sys, "argv", ["grpo", *sizes, "--json", str(tmp_path / "out.json"), *control])
    script().main()
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["seed"], result["warm_steps"], len(result["history"])) == (1, 2, 2)
    assert list(result["table"]) == ["baseline", "warm start", "final"]
    assert all(0 <= row["low"] <= row["pass@1"] <= row["high"] <= 1 for row in result["table"].values())
