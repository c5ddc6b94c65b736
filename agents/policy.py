"""A trained policy as the environment sees it: messages in, message out, tokens on record."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from ..envs import AssistantMessage, Message, OutOfBudget, StopReason, ToolSpec
from ..envs.message import Usage
from .engine import Engine, Finish, PolicyVersion, Sampling
from .renderer import Renderer
from .template import TemplateRefuses
from .tokengraph import TokenGraph


class EnginePolicy:
    """Answers one episode. Afterwards `graph` holds every token that the engine saw and sampled.

    Messages that extend what was heard so far are appended. A history that the environment rewrote
    (compaction), or other tools, are rendered anew and fork the graph.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        sampling: Sampling,
        *,
        version: PolicyVersion,
        seed: int,
        max_context: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """`max_context`: tokens of prompt and answer together, at most as many as the engine takes.
        `max_tokens`: sampled tokens over the whole episode; `sampling.max_tokens` is of one answer.
        """
        self.graph = TokenGraph()
        self.version = version
        """The policy that the next answer is sampled from."""
        self._engine, self._renderer = engine, renderer
        self._sampling = sampling if sampling.stop_ids else replace(sampling, stop_ids=renderer.stop_ids)
        self._seed = seed
        self._max_context = min(max_context or engine.max_context, engine.max_context)
        self._tokens_left = max_tokens
        self._held: tuple[int, ...] = ()
        self._answer_ids: tuple[int, ...] = ()
        self._heard: tuple[Message, ...] = ()
        self._tools: tuple[ToolSpec, ...] = ()
        self._num_calls = 0
        self._turn = 0

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        """The next answer, not longer than there is room. Raises `OutOfBudget` where there is none,
        `EngineError` and `TemplateRefuses`.
        """
        messages, tools = tuple(messages), tuple(tools)
        prompt = self._prompt(messages, tools)
        generation = await self._engine.generate(
            prompt,
            replace(self._sampling, max_tokens=min(self._sampling.max_tokens, self._room(prompt))),
            policy=self.version,
            seed=turn_seed(self._seed, self._turn),
        )
        self.graph = self.graph.commit(prompt, generation)
        if self._tokens_left is not None:
            self._tokens_left -= len(generation.ids)
        is_cut = generation.finish is Finish.LENGTH
        said = self._renderer.parse(generation.ids, tools, first_call=self._num_calls, is_cut=is_cut)
        usage = Usage(
            prompt_tokens=len(prompt), sampled_tokens=len(generation.ids), finish=generation.finish.value
        )
        answer = replace(said, usage=usage)
        self._held, self._answer_ids = prompt + generation.ids, generation.ids
        self._heard, self._tools = (*messages, answer), tools
        self._num_calls += len(answer.tool_calls)
        self._turn += 1
        return answer

    def _room(self, prompt: tuple[int, ...]) -> int:
        """How many tokens the next answer may have."""
        if self._tokens_left is not None and self._tokens_left <= 0:
            raise OutOfBudget(StopReason.MAX_TOKENS)
        room = self._max_context - len(prompt)
        if room <= 1:
            raise OutOfBudget(StopReason.CONTEXT)
        return room if self._tokens_left is None else min(room, self._tokens_left)

    def _prompt(self, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> tuple[int, ...]:
        """Every token that the engine shall see."""
        known = len(self._heard)
        if not known or messages[:known] != self._heard or tools != self._tools:
            return self._renderer.opening(messages, tools)
        if self._renderer.history == "template":
            with suppress(TemplateRefuses):  # perhaps of what the policy said, which appending leaves alone
                return self._renderer.again(self._held, messages, tools)
        answer = self._heard[-1]
        assert isinstance(answer, AssistantMessage)
        delta = self._renderer.delta(self._heard[:-1], self._answer_ids, answer, messages[known:], tools)
        return self._held + delta


def turn_seed(seed: int, turn: int) -> int:
    """[0, 2**63): the seed of one engine call.

    >>> turn_seed(1, 0) == turn_seed(1, 0) != turn_seed(1, 1)
    True
    """
    digest = hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
