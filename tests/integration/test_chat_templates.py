"""Every real chat template with real tokenizers: what was sampled stays as it was sampled.

refused_templates.json names the conversations that a template refuses. To renew it, run this file with
PALAESTRA_RENEW=1 and read the difference.
"""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from support import data_path, require, run_async

from palaestra.agents.engine import PolicyVersion, Sampling
from palaestra.agents.engines.scripted import ScriptedCall, ScriptedEngine
from palaestra.agents.policy import EnginePolicy
from palaestra.agents.pretrained import Pretrained, read_pretrained
from palaestra.agents.renderer import History, Renderer
from palaestra.agents.template import TemplateRefuses
from palaestra.envs import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

pytestmark = pytest.mark.data
each_tokenizer = pytest.mark.parametrize("tokenizer", ["tokenizer_qwen2_5", "tokenizer_qwen3"])

REFUSED = Path(__file__).parent / "refused_templates.json"
ADD = ToolSpec(
    name="add",
    description="Adds numbers.",
    parameters={"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
)
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
SAID = (f"<think>\nI should add.\n</think>\n\nLet me add.\n{CALL}", "It is 2 — «zwei» 二.", f"{CALL}\n{CALL}")


@dataclass(frozen=True)
class Shape:
    """One kind of conversation."""

    opening: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()


SHAPES = {
    "chat": Shape((UserMessage("What is 1 + 1?"),)),
    "system": Shape((SystemMessage("Be brief."), UserMessage("What is 1 + 1?"))),
    "tools": Shape((UserMessage("What is 1 + 1?"),), (ADD,)),
}


@cache
def pretrained(folder: str) -> Pretrained:
    require("data")
    return read_pretrained(data_path(folder))


def templates() -> Iterator[tuple[str, str]]:
    """(name, source) of each one."""
    folder = data_path("chat_templates")
    for path in sorted(folder.glob("*/*.jinja")):
        yield f"{path.parent.name}/{path.name}", path.read_text(encoding="utf-8")


@cache
def renderer(tokenizer: str, source: str, history: History = "append") -> Renderer:
    model = pretrained(tokenizer)
    return Renderer(model.tokenizer, source, special_tokens=model.special_tokens, history=history)


def text(renderer: Renderer, ids: tuple[int, ...]) -> str:
    return renderer.tokenizer.decode(list(ids), skip_special_tokens=False)


def spelled(renderer: Renderer, said: str, rng: random.Random) -> tuple[int, ...]:
    """A tokenisation of `said`, most often not the one that the tokenizer would choose."""
    cuts = sorted(rng.sample(range(1, len(said)), min(len(said) - 1, rng.randrange(6))))
    parts = [said[start:end] for start, end in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    encoded = renderer.tokenizer.encode_batch(parts, add_special_tokens=False)
    return tuple(id for part in encoded for id in part.ids)


def player(renderer: Renderer, rng: random.Random) -> ScriptedEngine:
    """Thinks, calls tools and talks; ends its turn, or ends it with another stop token, or is cut."""

    def script(call: ScriptedCall) -> tuple[int, ...]:
        said = spelled(renderer, SAID[call.number % len(SAID)], rng)
        end = rng.choice([*renderer.stop_ids, None])
        return said[: rng.randrange(len(said))] if end is None else (*said, end)

    return ScriptedEngine(script, max_context=100_000)


async def converse(renderer: Renderer, shape: Shape, rng: random.Random, num_turns: int) -> EnginePolicy:
    """A conversation in which calls are answered and everything else gets a new question."""
    policy = EnginePolicy(
        player(renderer, rng), renderer, Sampling(max_tokens=4096), version=PolicyVersion(0), seed=0
    )
    messages = shape.opening
    for turn in range(num_turns):
        answer = await policy(messages, shape.tools)
        calls = answer.tool_calls if shape.tools else ()
        results = tuple(ToolMessage(f"{turn + 2}.5", call_id=call.id, name=call.name) for call in calls)
        messages = (*messages, answer, *(results or (UserMessage(f"And {turn} + 1?"),)))
    return policy


@each_tokenizer
def test_no_template_makes_a_sampled_token_be_encoded_again(tokenizer: str) -> None:
    played = 0
    for name, source in templates():
        r, rng = renderer(tokenizer, source), random.Random(name)
        for kind, shape in SHAPES.items():
            if kind in refused().get(name, {}):
                continue
            graph = run_async(converse(r, shape, rng, 4)).graph
            assert graph.num_forks == 0, (name, kind)
            assert len(list(graph.rows())) == 1, (name, kind)
            played += 1
    assert played > 250


@each_tokenizer
def test_the_templates_that_refuse_a_conversation_are_the_known_ones(tokenizer: str) -> None:
    measured = {
        name: found for name, source in templates() if (found := reasons(renderer(tokenizer, source)))
    }
    if os.environ.get("PALAESTRA_RENEW"):
        REFUSED.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert measured == refused()


def reasons(renderer: Renderer) -> dict[str, str]:
    """Why, for each shape that is refused."""
    found: dict[str, str] = {}
    for kind, shape in SHAPES.items():
        answer = AssistantMessage("2", tool_calls=(call(),) if shape.tools else ())
        new: Message = (
            ToolMessage("2", call_id="call00000", name="add") if shape.tools else UserMessage("And 2?")
        )
        try:
            renderer.opening(shape.opening, shape.tools)
            renderer.delta(shape.opening, (), answer, [new], shape.tools)
        except TemplateRefuses as refusal:
            found[kind] = refusal.reason
    return found


def call() -> ToolCall:
    return ToolCall(id="call00000", name="add", arguments={"a": 1})


def refused() -> dict[str, dict[str, str]]:
    known: dict[str, dict[str, str]] = json.loads(REFUSED.read_text(encoding="utf-8"))
    return known


@each_tokenizer
def test_what_is_appended_is_what_the_whole_rendering_says(tokenizer: str) -> None:
    """For templates that keep plain chat as a prefix, the full rendering is an independent answer."""
    kept = 0
    for name, source in templates():
        if "chat" in refused().get(name, {}):
            continue
        r = renderer(tokenizer, source)
        before, answer, new = (
            SHAPES["chat"].opening,
            AssistantMessage("It is 2."),
            (UserMessage("And 2 + 2?"),),
        )
        first = text(r, r.opening(before, ())) + answer.content
        whole = text(r, r.opening((*before, answer, *new), ()))
        said = tuple(r.tokenizer.encode(answer.content, add_special_tokens=False).ids)
        cut = text(r, r.delta(before, said, answer, new, ()))
        assert whole.endswith(answer.content + cut), name
        if not whole.startswith(first):
            continue
        assert first + cut == whole, name
        if r.turn_end:
            ended = (*said, r.stop_ids[0])
            assert first + r.turn_end + text(r, r.delta(before, ended, answer, new, ())) == whole, name
        kept += 1
    assert kept > 60


@each_tokenizer
def test_behind_a_tool_call_the_same_is_appended_as_the_whole_rendering_says(tokenizer: str) -> None:
    """Where a token of this tokenizer ends the turn, the call's own text can be cut out of the rendering."""
    kept = 0
    for name, source in templates():
        r = renderer(tokenizer, source)
        if not r.turn_end or "tools" in refused().get(name, {}):
            continue
        before, answer = SHAPES["tools"].opening, AssistantMessage("I add.", tool_calls=(call(),))
        new = (ToolMessage("2.5", call_id="call00000", name="add"),)
        first = text(r, r.opening(before, (ADD,)))
        whole = text(r, r.opening((*before, answer, *new), (ADD,)))
        said, end, rest = whole.removeprefix(first).partition(r.turn_end)
        if not whole.startswith(first) or '"add"' not in said:
            continue
        ids = tuple(r.tokenizer.encode(said + end, add_special_tokens=False).ids)
        assert text(r, r.delta(before, ids, answer, new, (ADD,))) == rest, name
        assert text(r, r.delta(before, ids[:-1], answer, new, (ADD,))) == end + rest, name
        kept += 1
    assert kept > 5


@each_tokenizer
def test_rendering_again_forks_exactly_where_the_text_changes(tokenizer: str) -> None:
    forks: dict[str, int] = {}
    for name, source in templates():
        r, rng = renderer(tokenizer, source, "template"), random.Random(name)
        if "tools" in refused().get(name, {}):
            continue
        policy = run_async(converse(r, SHAPES["tools"], rng, 4))
        rows = list(policy.graph.rows())
        assert sum(sum(row.mask) for row in rows) == policy.graph.num_sampled, name
        forks[name] = policy.graph.num_forks
    assert forks["trl/qwen3.jinja"] > 0  # it strips thoughts


@each_tokenizer
def test_plain_chat_is_kept_also_when_it_is_rendered_again(tokenizer: str) -> None:
    """However the tokens were spelled, the same text is the same history."""
    source = data_path("chat_templates", "vllm", "template_chatml.jinja").read_text(encoding="utf-8")
    r, rng = renderer(tokenizer, source, "template"), random.Random(1)

    def script(call: ScriptedCall) -> tuple[int, ...]:
        return (*spelled(r, "It is 2 — «zwei» 二.", rng), r.stop_ids[0])

    engine = ScriptedEngine(script)
    policy = EnginePolicy(engine, r, Sampling(), version=PolicyVersion(0), seed=0)

    async def main() -> None:
        messages: tuple[Message, ...] = SHAPES["chat"].opening
        for _ in range(5):
            messages = (*messages, await policy(messages, ()), UserMessage("And 1 more?"))

    run_async(main())
    assert policy.graph.num_forks == 0
