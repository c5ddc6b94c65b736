"""Multi-turn, tool-using GRPO from scratch: tokenizer, model, warm start, rollouts, loss, evaluation.

    python examples/grpo_from_scratch.py --seed 0 --json /tmp/grpo.json      # about a minute on one core

The agent reads a reasoning-gym question, may call a tool with a line of Python, reads its output, answers:

    <|im_start|>user
    State the final answer to the following arithmetic problem: 15 - 43 - 75 =<|im_end|>
    <|im_start|>assistant
    Action: python
    Action Input: print(15 - 43 - 75)<|im_end|>     sampled: trained
    <|im_start|>tool
    -> -103<|im_end|>                               written by the environment: masked
    <|im_start|>assistant
    Answer: -103<|im_end|>                          sampled: trained

The reward is 1.0 when the answer equals reasoning-gym's reference, else 0.0. A supervised warm start on an
oracle's conversations ends while the copies of the numbers are still poor; GRPO does the rest.

Shapes: B rows, T tokens of a row, S sampled tokens of a batch, V vocabulary, N tasks, G episodes of each.
"""

import argparse
import json
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

reasoning_gym: Any = import_module("reasoning_gym")  # it ships no types

SPECIAL_TOKENS = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
PAD_ID, START_ID, END_ID = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every number that decides how well the policy learns."""

    warm_steps: int = 200
    warm_target: float = 0.12
    """The warm start ends when its loss, smoothed over about five steps, is down to this; nats a token."""
    warm_batch: int = 16
    warm_lr: float = 3e-3
    steps: int = 60
    num_tasks: int = 16
    group_size: int = 8
    num_minibatches: int = 2
    lr: float = 5e-4
    lr_warmup_steps: int = 10
    clip_low: float = 0.2
    clip_high: float = 0.28
    max_grad_norm: float = 1.0
    max_turns: int = 3
    max_new_tokens: int = 28
    num_held_out: int = 500
    shuffle_rewards: bool = False
    """The control: rewards without meaning, from which nothing can be learned."""


# --- the task, its oracle and its tool ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    question: str
    reference: str

    @property
    def oracle(self) -> list[str]:
        """What a perfect agent writes, turn by turn."""
        expression = self.question.split(": ")[1].removesuffix(" =")
        return [f"Action: python\nAction Input: print({expression})", f"Answer: {self.reference}"]


def task_stream(seed: int, exclude: frozenset[str] = frozenset()) -> Iterator[Task]:
    """Distinct sums of two or three two-digit numbers, none with a question in `exclude`."""
    config = {"min_terms": 2, "max_terms": 3, "min_digits": 2, "max_digits": 2}
    seen = set(exclude)
    for entry in reasoning_gym.create_dataset("chain_sum", size=1_000_000, seed=seed, **config):
        if entry["question"] not in seen:
            seen.add(entry["question"])
            yield Task(question=entry["question"], reference=entry["answer"])


def run_tool(code: str) -> str:
    """What `print(15 - 43)` prints. NOT a sandbox and not Python: sums of integers, no more."""
    if not (call := re.fullmatch(r"print\(([0-9]+(?: [+-] [0-9]+)*)\)", code)):
        return "error: SyntaxError"
    return str(sum(int(term.replace(" ", "")) for term in re.findall(r"[+-]? ?[0-9]+", call[1])))


def react(task: Task, said: str) -> str | float:
    """The environment: an observation, or the reward that ends the episode."""
    if action := re.fullmatch(r"Action: python\nAction Input: ([^\n]*)", said):
        return f"-> {run_tool(action[1])}"
    if answer := re.fullmatch(r"Answer: (-?[0-9]+)", said):
        return float(answer[1] == task.reference)
    return "-> error: no action"


# --- tokens: an episode is a list of ids that only grows ---


def heard(role: str, text: str) -> str:
    """What the environment says, and the header under which the policy answers."""
    return f"<|im_start|>{role}\n{text}<|im_end|>\n<|im_start|>assistant\n"


def build_tokenizer(tasks: list[Task]) -> Tokenizer:
    """BPE over printable ASCII, trained on demonstrations; digits and brackets are always single tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[0-9()]|\n|-> "), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=192,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=[*map(chr, range(32, 127)), "\n"],
        show_progress=False,
    )
    texts = [heard("user", t.question) + heard("tool", "-> error: no action").join(t.oracle) for t in tasks]
    tokenizer.train_from_iterator((re.sub(r"<\|\w+\|>", "\n", text) for text in texts), trainer)
    return tokenizer


@dataclass(kw_only=True, slots=True)
class Episode:
    """One attempt at a task. The three lists have one entry per token of the conversation."""

    task: Task
    ids: list[int] = field(default_factory=list[int])
    sampled: list[bool] = field(default_factory=list[bool])
    """True where the policy chose the token: known from lengths, not from ids (a pad can be sampled)."""
    logprobs: list[float] = field(default_factory=list[float])
    """nats under the policy that sampled; 0.0 where `sampled` is False."""
    reward: float = 0.0
    is_done: bool = False
    num_turns: int = 0

    def extend(self, ids: list[int], logprobs: list[float] | None = None) -> None:
        """Append a delta; with `logprobs` the policy wrote it. Nothing is ever encoded again."""
        self.ids += ids
        self.sampled += [logprobs is not None] * len(ids)
        self.logprobs += [0.0] * len(ids) if logprobs is None else logprobs


# --- the policy ---


def build_model(vocab_size: int) -> LlamaForCausalLM:
    """0.44 M parameters with random weights. A small theta lets two layers find "the token before" fast."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    model: LlamaForCausalLM
    tokenizer: Tokenizer
    recipe: Recipe

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


@torch.inference_mode()
def answer(agent: Agent, episodes: list[Episode]) -> list[list[int]]:
    """Add an answer to each episode, sampled at temperature 1 through `<|im_end|>`; returns their ids."""
    lengths, is_open = [len(episode.ids) for episode in episodes], [True] * len(episodes)
    width, cache = max(lengths), DynamicCache()  # padded on the left, so that all prompts end together
    ids = torch.tensor([[PAD_ID] * (width - len(e.ids)) + e.ids for e in episodes])
    seen = torch.tensor([[0] * (width - length) + [1] * length for length in lengths])
    for _ in range(agent.recipe.max_new_tokens):
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = agent.model(ids, seen, positions, past_key_values=cache, logits_to_keep=1)
        logprobs_BV = output.logits[:, -1].log_softmax(-1)
        ids = torch.multinomial(logprobs_BV.exp(), 1)
        sampled = zip(episodes, listed(ids[:, 0]), listed(logprobs_BV.gather(1, ids)[:, 0]), strict=True)
        for row, (episode, token, logprob) in enumerate(sampled):
            if is_open[row]:
                episode.extend([token], [logprob])
                is_open[row] = token != END_ID
        if not any(is_open):
            break
        seen = torch.cat([seen, torch.ones_like(ids)], 1)
    return [episode.ids[length:] for episode, length in zip(episodes, lengths, strict=True)]


def listed(tensor: Any) -> list[Any]:
    """`tensor.tolist()`, which torch does not annotate."""
    return list(tensor.tolist())


# --- rollouts ---


def play(agent: Agent, tasks: list[Task]) -> list[Episode]:
    """One finished episode per task (name a task G times for a group); all advance together, turn by turn."""
    episodes = [Episode(task=task) for task in tasks]
    for episode in episodes:
        episode.extend(agent.encode(heard("user", episode.task.question)))
    for _ in range(agent.recipe.max_turns):
        if unfinished := [episode for episode in episodes if not episode.is_done]:
            for episode, ids in zip(unfinished, answer(agent, unfinished), strict=True):
                advance(agent, episode, ids)
    return episodes


def advance(agent: Agent, episode: Episode, answer_ids: list[int]) -> None:
    """Let the environment react to an answer, and append what it says if the game goes on."""
    is_closed = answer_ids[-1] == END_ID
    spoken = answer_ids[: len(answer_ids) - is_closed]
    reaction = react(episode.task, agent.tokenizer.decode(spoken, skip_special_tokens=False))
    episode.num_turns += 1
    if not isinstance(reaction, str):
        episode.reward, episode.is_done = reaction, True
    elif episode.num_turns < agent.recipe.max_turns:
        episode.extend(agent.encode(("\n" if is_closed else "<|im_end|>\n") + heard("tool", reaction)))


def measure(agent: Agent, tasks: list[Task]) -> dict[str, float]:
    """pass@1 at temperature 1, one attempt per held-out task, with its 95% Wilson interval."""
    num, z = len(tasks), 1.96
    rate = sum(episode.reward for episode in play(agent, tasks)) / num
    centre, scale = rate + z * z / (2 * num), 1 + z * z / num
    half = z * math.sqrt(rate * (1 - rate) / num + z * z / (4 * num * num))
    return {"pass@1": rate, "low": (centre - half) / scale, "high": (centre + half) / scale}


# --- learning ---


def pad(rows: list[list[Any]], value: Any = PAD_ID) -> Tensor:
    """[B, T] padded on the right; causal attention never lets a real token see the filling."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def losses(agent: Agent, episodes: list[Episode]) -> Tensor:
    """[S] minus the log-probability of each sampled token, row by row, nats."""
    ids, sampled = pad([e.ids for e in episodes]), pad([e.sampled for e in episodes], False)[:, 1:]
    hidden = agent.model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits_SV = cast(Tensor, agent.model.lm_head(hidden[sampled]))
    return cross_entropy(logits_SV, ids[:, 1:][sampled], reduction="none")


def build_optimizer(agent: Agent) -> Any:
    return torch.optim.AdamW(agent.model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)


def update(agent: Agent, optimizer: Any, loss: Any, lr: float) -> None:
    optimizer.param_groups[0]["lr"] = lr
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(agent.model.parameters(), agent.recipe.max_grad_norm)
    optimizer.step()


def demonstrate(agent: Agent, task: Task) -> Episode:
    """The oracle's conversation, as if the policy had said it."""
    episode = Episode(task=task)
    observations = [heard("user", task.question), "\n" + heard("tool", f"-> {task.reference}")]
    for observation, said in zip(observations, task.oracle, strict=True):
        episode.extend(agent.encode(observation))
        ids = agent.encode(said + "<|im_end|>")
        episode.extend(ids, [0.0] * len(ids))
    return episode


def warm_start(agent: Agent, tasks: Iterator[Task]) -> int:
    """Supervised steps on the oracle's tokens, down to the target loss; returns how many it took."""
    recipe, optimizer, smooth = agent.recipe, build_optimizer(agent), math.nan
    for step in range(recipe.warm_steps):
        loss = losses(agent, [demonstrate(agent, task) for task in islice(tasks, recipe.warm_batch)]).mean()
        update(agent, optimizer, loss, recipe.warm_lr * min(1.0, (step + 1) / 20))
        smooth = 0.8 * smooth + 0.2 * loss.item() if step else loss.item()
        if smooth <= recipe.warm_target:
            return step + 1
    return recipe.warm_steps


def group_advantages(rewards_NG: Tensor) -> Tensor:
    """[N, G] each episode against its siblings, in standard deviations; all zero where all siblings agree."""
    centred_NG = rewards_NG - rewards_NG.mean(1, keepdim=True)
    return centred_NG / (rewards_NG.std(1, keepdim=True) + 1e-4)


def ppo_clip(agent: Agent, episodes: list[Episode], advantages: list[float]) -> Tensor:
    """The clipped surrogate: summed over all sampled tokens of the minibatch, divided by their number."""
    sampled = pad([e.sampled for e in episodes], False)
    old_S = pad([e.logprobs for e in episodes], 0.0)[sampled]
    advantages_S = torch.tensor(advantages)[:, None].expand(sampled.shape)[sampled]
    ratio_S = (-losses(agent, episodes) - old_S).exp()
    clipped_S = ratio_S.clamp(1 - agent.recipe.clip_low, 1 + agent.recipe.clip_high)
    return -torch.minimum(ratio_S * advantages_S, clipped_S * advantages_S).mean()


def train_step(agent: Agent, optimizer: Any, tasks: list[Task], step: int) -> dict[str, float]:
    """Play a group per task, compare siblings, drop those without contrast, and learn from the rest."""
    recipe = agent.recipe
    episodes = play(agent, [task for task in tasks for _ in range(recipe.group_size)])
    rewards = torch.tensor([episode.reward for episode in episodes])
    credited = rewards[torch.randperm(len(rewards))] if recipe.shuffle_rewards else rewards
    advantages = listed(group_advantages(credited.view(-1, recipe.group_size)).flatten())
    kept = [index for index, advantage in enumerate(advantages) if advantage != 0.0]
    random.shuffle(kept)
    # Without the warm-up the first steps wreck the policy.
    lr = recipe.lr * min((step + 1) / recipe.lr_warmup_steps, 1 - 0.9 * step / recipe.steps)
    for part in filter(None, (kept[m :: recipe.num_minibatches] for m in range(recipe.num_minibatches))):
        loss = ppo_clip(agent, [episodes[i] for i in part], [advantages[i] for i in part])
        update(agent, optimizer, loss, lr)
    num_sampled = sum(sum(episode.sampled) for episode in episodes)
    return {
        "reward": float(rewards.mean()),
        "turns": sum(episode.num_turns for episode in episodes) / len(episodes),
        "entropy": -sum(sum(episode.logprobs) for episode in episodes) / num_sampled,
    }


def run(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Baseline, warm start, GRPO; everything that --json writes."""
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    held_out = list(islice(task_stream(10_000_019), recipe.num_held_out))
    stream = task_stream(seed, frozenset(task.question for task in held_out))
    tokenizer = build_tokenizer(list(islice(stream, 500)))
    agent = Agent(model=build_model(tokenizer.get_vocab_size()), tokenizer=tokenizer, recipe=recipe)
    table = {"baseline": measure(agent, held_out)}
    warm_steps = warm_start(agent, stream)
    table["warm start"] = measure(agent, held_out)
    print(f"{warm_steps} supervised steps: pass@1 {table['warm start']['pass@1']:.3f}", flush=True)
    optimizer, history = build_optimizer(agent), list[dict[str, float]]()
    for step in range(recipe.steps):
        found = train_step(agent, optimizer, list(islice(stream, recipe.num_tasks)), step)
        history.append(found)
        print(f"step {step + 1:3d}", *(f"{name} {value:.3f}" for name, value in found.items()), flush=True)
    table["final"] = measure(agent, held_out)
    for name, found in table.items():
        print(f"{name:12s} {found['pass@1']:.3f} [{found['low']:.3f}, {found['high']:.3f}]")
    return {"seed": seed, "warm_steps": warm_steps, "table": table, "history": history}


def main() -> None:
    parser = argparse.ArgumentParser(description="Multi-turn, tool-using GRPO from scratch.")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("steps", "warm_steps", "num_held_out"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Recipe(), name))
    parser.add_argument("--shuffle-rewards", action="store_true", help="the control: rewards without meaning")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    recipe = Recipe(**{name: value for name, value in vars(args).items() if name not in ("seed", "json")})
    result = run(recipe, args.seed)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
