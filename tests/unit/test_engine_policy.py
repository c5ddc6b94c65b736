import asyncio
from collections.abc import Sequence

import pytest
from chats import CHATML, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from palaestra.agents.engine import Finish, PolicyVersion, Sampling
from palaestra.agents.engines.scripted import ScriptedEngine, in_turn
from palaestra.agents.errors import EngineError
from palaestra.agents.policy import EnginePolicy, turn_seed
from palaestra.agents.renderer import History, Renderer
from palaestra.agents.trajectory import EpisodeKey
from palaestra.envs import (
    AssistantMessage,
    Budget,
    Env,
    Message,
    Observation,
    OutOfBudget,
    Step,
    StopReason,
    Task,
    TaskSet,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from palaestra.trainer.arena import Arena
from palaestra.trainer.parts import make_rollout
from palaestra.trainer.recipe import Recipe

END = 257
ADD = ToolSpec(name="add", parameters={"properties": {"sum": {"type": "string"}}})
TOKENIZER = byte_tokenizer()
CALL = '<tool_call>{"name": "add", "arguments": {"sum": "1+1"}}</tool_call>'


def renderer(history: History = "append", format: str = "hermes") -> Renderer:
    special = {"eos_token": "<|im_end|>"}
    return Renderer(TOKENIZER, CHATML, special_tokens=special, history=history, format=format)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False).ids)


def says(*texts: str) -> ScriptedEngine:
    return ScriptedEngine(in_turn([ids(text) for text in texts]))


def policy(
    engine: ScriptedEngine,
    *,
    history: History = "append",
    format: str = "hermes",
    max_tokens: int = 99,
    max_context: int | None = None,
    budget_tokens: int | None = None,
) -> EnginePolicy:
    return EnginePolicy(
        engine,
        renderer(history, format),
        Sampling(max_tokens=max_tokens),
        version=PolicyVersion(0),
        seed=11,
        max_context=max_context,
        max_tokens=budget_tokens,
    )


def talk(
    policy: EnginePolicy, *heard: str, tools: Sequence[ToolSpec] = (), messages: Sequence[Message] = ()
) -> tuple[Message, ...]:
    """The conversation after an answer to each of `heard`."""

    async def main() -> tuple[Message, ...]:
        said = tuple(messages)
        for text in heard:
            said = (*said, UserMessage(text))
            said = (*said, await policy(said, tools))
        return said

    return asyncio.run(main())


def test_each_prompt_is_the_last_one_with_its_answer_and_the_new_words() -> None:
    engine = says("one<|im_end|>", "two<|im_end|>", "three<|im_end|>")
    p = policy(engine)
    talk(p, "a", "b", "c")
    first, second, third = (call.prompt_ids for call in engine.calls)
    turn = "\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    assert second == (*first, *ids("one<|im_end|>" + turn.format("b")))
    assert third == (*second, *ids("two<|im_end|>" + turn.format("c")))
    assert p.graph.num_forks == 0
    assert p.graph.ids(0) == (*third, *ids("three<|im_end|>"))


def test_an_answer_that_was_cut_is_closed_before_the_next_message() -> None:
    engine = says("a long story")
    p = policy(engine, max_tokens=6)
    answer = talk(p, "a", "b")[1]
    assert isinstance(answer, AssistantMessage)
    assert answer.usage is not None
    assert (answer.content, answer.usage.finish, answer.usage.sampled_tokens) == ("a long", Finish.LENGTH, 6)
    assert engine.calls[1].prompt_ids[len(engine.calls[0].prompt_ids) :] == ids(
        "a long<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_call_that_the_length_cut_is_a_bad_one() -> None:
    said = "Action: add\nAction Input: 1+1"
    (_, whole) = talk(policy(says(f"{said}00<|im_end|>"), format="react"), "a", tools=[ADD])
    (_, cut) = talk(policy(says(f"{said}00"), format="react", max_tokens=len(said)), "a", tools=[ADD])
    assert isinstance(whole, AssistantMessage) and isinstance(cut, AssistantMessage)
    assert [dict(call.arguments) for call in whole.tool_calls] == [{"sum": "1+100"}]
    assert (cut.tool_calls, [call.text for call in cut.bad_calls]) == ((), [said])


def test_a_call_that_was_parsed_gets_an_id_of_its_own_in_the_episode() -> None:
    engine = says(f"{CALL}<|im_end|>")
    answers = [message for message in talk(policy(engine), "a", "b") if isinstance(message, AssistantMessage)]
    assert [call.id for answer in answers for call in answer.tool_calls] == ["call00000", "call00001"]


def test_a_seed_and_a_turn_give_the_same_engine_seed_in_every_run() -> None:
    engine = says("one<|im_end|>")
    talk(policy(engine), "a", "b")
    assert [call.seed for call in engine.calls] == [turn_seed(11, 0), turn_seed(11, 1)]
    assert turn_seed(11, 0) != turn_seed(11, 1) != turn_seed(12, 1)
    assert 0 <= turn_seed(11, 0) < 2**63


def test_a_full_context_stops_the_episode_and_an_almost_full_one_shortens_the_answer() -> None:
    size = len(renderer().opening([UserMessage("a")], ()))
    engine = says("a long story")
    talk(policy(engine, max_context=size + 3), "a")
    assert engine.calls[0].sampling.max_tokens == 3
    with pytest.raises(OutOfBudget) as stopped:
        talk(policy(engine, max_context=size + 1), "a")
    assert stopped.value.reason is StopReason.CONTEXT
    assert len(engine.calls) == 1


def test_the_last_answer_is_cut_where_the_tokens_of_the_episode_end() -> None:
    engine = says("a long story")
    p = policy(engine, max_tokens=6, budget_tokens=10)
    said = talk(p, "a", "b")
    assert [call.sampling.max_tokens for call in engine.calls] == [6, 4]
    assert p.graph.num_sampled == 10
    with pytest.raises(OutOfBudget) as stopped:
        talk(p, "c", messages=said)
    assert stopped.value.reason is StopReason.MAX_TOKENS
    assert len(engine.calls) == 2


class Endless(Env[Task]):
    """Never has enough."""

    budget = Budget(max_tokens=10)

    async def step(self, action: AssistantMessage) -> Step:
        return Step(Observation(messages=(UserMessage("more"),)), 0.0, False, False, {})


@pytest.mark.parametrize(("override", "sampled"), [({}, 10), ({"max_tokens": 14}, 14)])
def test_a_run_keeps_the_tokens_of_an_episode_to_its_budget(override: dict[str, int], sampled: int) -> None:
    fields = {"name": "x", "grpo": {"steps": 1}, "sampling": {"max_tokens": 6}}
    recipe = Recipe.model_validate(fields | {"env": {"id": "x", "budget": override}})
    tasks = TaskSet([Task(id="a", messages=(UserMessage("a"),))])
    arena = Arena(Endless, tasks, tasks)
    rollout = make_rollout(recipe, arena, says("a long story"), renderer(), recipe.training_sampling)
    found = asyncio.run(rollout(EpisodeKey(epoch=0, task_id="a", sample=0), tasks[0], PolicyVersion(0)))
    assert (found.graph.num_sampled, found.episode.stop) == (sampled, StopReason.MAX_TOKENS)


def test_a_rewritten_history_forks_and_the_conversation_goes_on_from_there() -> None:
    engine = says("one<|im_end|>", "two<|im_end|>", "three<|im_end|>")
    p = policy(engine)
    talk(p, "a")
    talk(p, "b", "c", messages=[UserMessage("a, in short")])
    assert p.graph.num_forks == 1
    assert [len(segment.calls) for segment in p.graph.segments] == [1, 2]
    assert sum(sum(row.mask) for row in p.graph.rows()) == p.graph.num_sampled


def test_other_tools_are_shown_by_a_fork() -> None:
    p = policy(says("one<|im_end|>"), format="react")
    said = talk(p, "a")
    talk(p, "b", messages=said, tools=[ADD])
    assert p.graph.num_forks == 1


def test_an_answer_that_failed_can_be_asked_for_again_with_the_same_seed() -> None:
    engine = ScriptedEngine(
        in_turn([ids("one<|im_end|>")]), fail_when=lambda call: call.number == 1, max_context=999
    )
    p = policy(engine)
    said = talk(p, "a")
    with pytest.raises(EngineError, match="scripted failure of call 1"):
        talk(p, "b", messages=said)
    talk(p, "b", messages=said)
    assert engine.calls[1].prompt_ids == engine.calls[2].prompt_ids
    assert engine.calls[1].seed == engine.calls[2].seed
    assert len(p.graph.segments[0].calls) == 2


def test_history_template_forks_only_where_the_text_changed() -> None:
    """The template writes the call in another way than it was sampled."""
    engine = says("one<|im_end|>", f"{CALL}<|im_end|>", "three<|im_end|>")
    p = policy(engine, history="template")
    said = talk(p, "a", "b")
    assert p.graph.num_forks == 0
    talk(p, "c", messages=(*said, ToolMessage("2")))
    assert p.graph.num_forks == 1
    assert sum(sum(row.mask) for row in p.graph.rows()) == p.graph.num_sampled


@given(st.lists(st.lists(st.integers(0, 258), max_size=8), min_size=1, max_size=4), st.integers(1, 6))
def test_whatever_is_sampled_is_kept_as_it_was_sampled(answers: list[list[int]], max_tokens: int) -> None:
    engine = ScriptedEngine(in_turn(answers))
    p = policy(engine, max_tokens=max_tokens)
    talk(p, *"abcd")
    assert p.graph.num_forks == 0
    (row,) = p.graph.rows() if p.graph.num_sampled else [None]
    if row is not None:
        trained = [id for id, is_trained in zip(row.ids, row.mask, strict=True) if is_trained]
        assert trained == [id for turn in range(4) for id in cut(answers[turn % len(answers)], max_tokens)]


def cut(answer: list[int], max_tokens: int) -> list[int]:
    end = answer.index(END) + 1 if END in answer else len(answer)
    return answer[: min(end, max_tokens)]


def test_the_next_answer_can_come_from_a_newer_policy() -> None:
    engine = says("one<|im_end|>")
    p = policy(engine)
    said = talk(p, "a")
    engine.live.add(PolicyVersion(3))
    p.version = PolicyVersion(3)
    talk(p, "b", messages=said)
    (row,) = p.graph.rows()
    assert {version for version in row.versions if version >= 0} == {0, 3}
