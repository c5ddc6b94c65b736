"""The model made on the spot, and the supervised start on demonstrations."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palaestra.agents.renderer import Renderer
from palaestra.agents.trajectory import EpisodeKey
from palaestra.envs import (
    AssistantMessage,
    Episode,
    Message,
    StopReason,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from palaestra.trainer.batches.rows import Row
from palaestra.trainer.config import LearnerConfig
from palaestra.trainer.errors import Diverged
from palaestra.trainer.learner import Learner
from palaestra.trainer.recipe import OptimizerSection, TinyModel, WarmStartSection
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.warm_start import demonstrate, warm_start
from palaestra.trainer.weights.model import load_model
from palaestra.trainer.weights.tiny import END_ID, PAD_ID, SPECIAL_TOKENS, make_tiny_model

SPEC = TinyModel(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=32, intermediate=32, vocab=150)
TEXTS = [f"Calculate {a} - {b}.\nAction: python\nAnswer: {a - b}" for a in range(40) for b in range(9)]
TOOLS = (ToolSpec(name="python", description="Runs code."),)
CALL = ToolCall(id="call00000", name="python", arguments={"code": "print(1-2)"})
TALK: tuple[Message, ...] = (
    UserMessage("Calculate 1-2."),
    AssistantMessage(tool_calls=(CALL,)),
    ToolMessage("-1", "call00000", "python"),
    AssistantMessage("Answer: -1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "model"
    make_tiny_model(SPEC, path, TEXTS, seed=1)
    return path


def test_the_folder_is_complete(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model = load_model(folder)
    assert model.config.vocab_size <= 150
    assert not model.config.tie_word_embeddings


def test_transformers_reads_the_same_tokens_and_the_same_chat(folder: Path) -> None:
    import transformers

    untyped: Any = transformers
    tokenizer = untyped.AutoTokenizer.from_pretrained(folder)
    renderer = Renderer.from_pretrained(folder)
    text = 'Answer: -12 {"a": 7}\n(x)'
    assert tokenizer.encode(text) == renderer.tokenizer.encode(text, add_special_tokens=False).ids
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD_ID, END_ID)
    chat = [{"role": "user", "content": "hi"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert tuple(ids) == renderer.opening((UserMessage("hi"),), ())
    assert renderer.stop_ids == (END_ID,)


def test_any_printable_text_comes_back_and_numbers_are_spelled_digit_by_digit(folder: Path) -> None:
    tokenizer = Renderer.from_pretrained(folder).tokenizer
    text = "".join(map(chr, range(32, 127))) + "\nCalculate 12 - -345."
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    for token in tokenizer.get_vocab():
        if token not in SPECIAL_TOKENS and any(letter.isdigit() for letter in token):
            assert len(token) == 1


def test_tools_calls_and_results_are_shown(folder: Path) -> None:
    renderer = Renderer.from_pretrained(folder)
    ids = renderer.opening((SystemMessage("Be brief."), *TALK), TOOLS)
    text = renderer.tokenizer.decode(list(ids), skip_special_tokens=False)
    assert text.startswith("<|im_start|>system\nBe brief.\n\nTools:\n{")
    assert text.count("Be brief.") == 1
    assert (
        '<tool_call>\n{"name": "python", "arguments": {"code": "print(1-2)"}}\n</tool_call><|im_end|>' in text
    )
    assert "<|im_start|>tool\n-1<|im_end|>" in text
    assert text.endswith("Answer: -1<|im_end|>\n<|im_start|>assistant\n")


def test_the_seed_decides_the_weights(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 1), ("other", 2)):
        make_tiny_model(SPEC, tmp_path / name, TEXTS, seed=seed)
    weights = [path / "model.safetensors" for path in (folder, tmp_path / "same", tmp_path / "other")]
    first, same, other = (path.read_bytes() for path in weights)
    assert first == same != other
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "other" / "tokenizer.json").read_bytes()


# --- demonstrations ---


def demonstration(folder: Path, format: str = "hermes") -> Row:
    episode = Episode(task_id="t", seed=0, messages=TALK, tools=TOOLS, stop=StopReason.DONE)
    renderer = Renderer.from_pretrained(folder, format=format)
    return demonstrate(EpisodeKey(epoch=0, task_id="t", sample=0), episode, renderer)


def test_an_answer_in_the_opening_is_shown_in_a_demonstration_and_not_trained(folder: Path) -> None:
    shown = (UserMessage("1-1"), AssistantMessage("Answer: 0"), *TALK)
    episode = Episode(task_id="t", seed=0, messages=shown, num_opening=3, tools=TOOLS, stop=StopReason.DONE)
    renderer = Renderer.from_pretrained(folder)
    row = demonstrate(EpisodeKey(epoch=0, task_id="t", sample=0), episode, renderer)
    trained = [token for token, mask in zip(row.tokens.ids, row.tokens.mask, strict=True) if mask]
    assert row.tokens.ids[: row.tokens.mask.index(True)] == renderer.opening(shown[:3], TOOLS)
    plain = demonstration(folder).tokens
    assert trained == [token for token, mask in zip(plain.ids, plain.mask, strict=True) if mask]


@pytest.mark.parametrize("format", ["hermes", "react"])
def test_a_demonstration_trains_what_the_assistant_says_and_the_end_of_its_turns(
    folder: Path, format: str
) -> None:
    row = demonstration(folder, format)
    renderer = Renderer.from_pretrained(folder, format=format)
    runs: list[list[int]] = [[]]
    for token, is_trained in zip(row.tokens.ids, row.tokens.mask, strict=True):
        if is_trained:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    assert len(runs) == 2
    assert all(run[-1] == END_ID for run in runs)
    call, answer = (renderer.parse(run, TOOLS) for run in runs)
    assert [(each.name, each.arguments) for each in call.tool_calls] == [("python", CALL.arguments)]
    assert answer.content == "Answer: -1"
    assert row.episode_tokens == sum(row.tokens.mask)


def test_a_demonstration_is_what_the_policy_would_have_seen(folder: Path) -> None:
    row, renderer = demonstration(folder), Renderer.from_pretrained(folder)
    text = renderer.tokenizer.decode(list(row.tokens.ids), skip_special_tokens=False)
    whole = renderer.tokenizer.decode(list(renderer.opening(TALK, TOOLS)), skip_special_tokens=False)
    assert text == whole.removesuffix("\n<|im_start|>assistant\n")


def test_a_warm_start_learns_its_demonstrations(folder: Path) -> None:
    section = WarmStartSection(steps=40, batch_size=2, optimizer=OptimizerSection(lr=1e-2))
    learner = Learner(load_model(folder), LearnerConfig(optimizer=OptimizerConfig(lr=1e-2)))
    row = demonstration(folder)
    twin = replace(row, key=EpisodeKey(epoch=0, task_id="u", sample=0))
    losses = [row["sft_loss"] for row in warm_start(learner, [row, twin], section)]
    assert len(losses) == learner.num_steps == 40
    assert losses[0] > 3
    assert losses[-1] < 0.3


def test_a_warm_start_without_demonstrations_is_refused(folder: Path) -> None:
    learner = Learner(load_model(folder))
    with pytest.raises(ValueError, match="no demonstrations"):
        next(warm_start(learner, [], WarmStartSection()))


def test_a_warm_start_on_broken_weights_ends_at_its_first_step(folder: Path) -> None:
    learner = Learner(load_model(folder))
    next(iter(learner.parameters.values())).data.fill_(math.nan)
    with pytest.raises(Diverged, match=r"warm start, step 1: the loss is nan"):
        list(warm_start(learner, [demonstration(folder)], WarmStartSection(steps=3, batch_size=1)))


@pytest.mark.parametrize("broken", [1, 3])
def test_gradients_of_a_warm_start_that_are_not_finite_are_told_and_one_has_to_be(
    folder: Path, broken: int
) -> None:
    learner, skipped = Learner(load_model(folder)), list[float]()
    factors = iter([math.inf] * broken + [1.0] * (3 - broken))
    untyped: Any = learner.parameters["model.norm.weight"]

    def spoil(gradient: Any) -> Any:
        return gradient * next(factors)

    untyped.register_hook(spoil)
    section = WarmStartSection(steps=3, batch_size=1)
    try:
        for row in warm_start(learner, [demonstration(folder)], section):
            skipped.append(row["skipped"])
    except Diverged as error:
        assert broken == 3 and "no gradient was finite" in str(error)
    else:
        assert broken == 1 and learner.num_steps == 2
    assert skipped == [1.0] * broken + [0.0] * (3 - broken)
