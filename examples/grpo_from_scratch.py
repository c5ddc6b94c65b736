"""Multi-turn, tool-using GRPO from scratch: tokenizer, model, warm start, rollouts, loss, evaluation.

    python examples/grpo_from_scratch.py --seed 0 --json /tmp/grpo.json      # a minute or two on two cores

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

Reward: 1.0 when the answer equals reasoning-gym's reference, else 0.0. Errors are observations and cost a
turn. The warm start imitates a sloppy oracle that guesses, wrongly, in 60% of its conversations. GRPO has to
find out that calling the tool pays (the first 15 steps), then to copy more exactly (the rest).

Shapes: B rows, T tokens of a row, S sampled tokens of a batch, V vocabulary, N tasks, G episodes of each.
"""

import argparse
import ast
import json
import math
import random
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import reasoning_gym
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Cache, LlamaConfig, LlamaForCausalLM

SPECIAL_TOKENS = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
PAD_ID, START_ID, END_ID = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every number that decides how well the policy learns."""

    warm_steps: int = 300
    warm_batch: int = 16
    warm_lr: float = 3e-3
    guess_rate: float = 0.6
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
    num_held_out: int = 1000
    eval_every: int = 20


# --- the task and its tool ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    question: str
    reference: str


def task_stream(seed: int, exclude: frozenset[str] = frozenset()) -> Iterator[Task]:
    """Distinct sums of two or three two-digit numbers, none with a question in `exclude`."""
    config = {"min_terms": 2, "max_terms": 3, "min_digits": 2, "max_digits": 2}
    dataset = reasoning_gym.create_dataset("chain_sum", size=1_000_000, seed=seed, **config)
    seen = set(exclude)
    for entry in dataset:
        if entry["question"] not in seen:
            seen.add(entry["question"])
            yield Task(question=entry["question"], reference=entry["answer"])


def evaluate(node: ast.AST) -> int:
    """The value of a syntax tree of sums: evaluate(ast.parse("3 - 5", mode="eval").body) == -2."""
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return evaluate(left) + evaluate(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return evaluate(left) - evaluate(right)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate(operand)
    raise ValueError(f"{type(node).__name__} is not allowed")


def run_python(code: str) -> str:
    """What `print(<sum>)` prints, or an error. NOT a sandbox and not Python: + and - of integers, no more."""
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            call = ast.parse(code, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"):
            return ""
        return " ".join(str(evaluate(argument)) for argument in call.args)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"error: {type(error).__name__}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    observation: str = ""
    reward: float = 0.0
    is_done: bool = False


def step_env(task: Task, text: str) -> Step:
    """One move of the environment: run the tool, judge the answer, or say what was wrong."""
    if action := re.fullmatch(r"Action: python\nAction Input: ([^\n]*)", text):
        return Step(observation=f"-> {run_python(action[1])}")
    if answer := re.fullmatch(r"Answer: (-?[0-9]+)", text):
        return Step(reward=float(answer[1] == task.reference), is_done=True)
    return Step(observation="-> error: no action")


# --- tokens: an episode is a list of ids that only grows ---


def user_turn(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def tool_turn(observation: str) -> str:
    return f"\n<|im_start|>tool\n{observation}<|im_end|>\n<|im_start|>assistant\n"


def oracle(task: Task) -> list[str]:
    """What a perfect agent writes, turn by turn."""
    code = "print(" + task.question.split(": ")[1].removesuffix(" =") + ")"
    return [f"Action: python\nAction Input: {code}", f"Answer: {run_python(code)}"]


def build_tokenizer(tasks: list[Task]) -> Tokenizer:
    """BPE over printable ASCII, trained on demonstrations; digits and brackets are always single tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[0-9()]|\n|-> "), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    alphabet = [chr(code) for code in range(32, 127)] + ["\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=192, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    texts = [user_turn(t.question) + tool_turn("-> error: SyntaxError").join(oracle(t)) for t in tasks]
    tokenizer.train_from_iterator((re.sub(r"<\|\w+\|>", "\n", text) for text in texts), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


@dataclass(kw_only=True, slots=True)
class Episode:
    """One attempt at a task. The three lists have one entry per token of the conversation."""

    task: Task
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    """True where the policy chose the token: known from lengths, not ids (pad can be sampled)."""
    logprobs: list[float] = field(default_factory=list)
    """nats under the policy that sampled; 0.0 where `sampled` is False."""
    reward: float = 0.0
    is_done: bool = False
    num_turns: int = 0

    def extend(self, ids: list[int], logprobs: list[float] | None = None) -> None:
        """Append a delta; with `logprobs` the policy wrote it. Nothing is ever encoded again."""
        self.ids += ids
        self.sampled += [logprobs is not None] * len(ids)
        self.logprobs += [0.0] * len(ids) if logprobs is None else logprobs


def pad(rows: list[list[Any]], value: Any = PAD_ID) -> Tensor:
    """[B, T] left-aligned; causal attention never lets a real token see the filling."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


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
        max_position_embeddings=256,
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        tie_word_embeddings=False,
        pad_token_id=PAD_ID,
        bos_token_id=START_ID,
        eos_token_id=END_ID,
    )
    return LlamaForCausalLM(config)


class SlotCache:
    """Keys and values of left-aligned rows, each at its own length: position p lives in slot p."""

    def __init__(self, positions: Tensor, num_slots: int) -> None:
        self.positions = positions
        """[B, T] where the tokens of the next forward pass go."""
        self.rows = torch.arange(len(positions))[:, None]
        self.slots = torch.arange(num_slots)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def mask(self) -> Tensor:
        """[B, 1, T, slots] a token sees the slots up to its own; later ones hold filling or nothing."""
        return (self.slots <= self.positions[:, :, None])[:, None]

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Called by transformers with [B, heads, T, head_dim]; returns [B, heads, slots, head_dim]."""
        if layer not in self.layers:
            shape = (len(key), len(self.slots), key.shape[1], key.shape[3])
            self.layers[layer] = (key.new_zeros(shape), key.new_zeros(shape))
        keys, values = self.layers[layer]
        keys[self.rows, self.positions] = key.transpose(1, 2)
        values[self.rows, self.positions] = value.transpose(1, 2)
        return keys.transpose(1, 2), values.transpose(1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    ids: list[int]
    logprobs: list[float]


@torch.inference_mode()
def generate(model: LlamaForCausalLM, prompts: list[list[int]], max_new_tokens: int) -> list[Completion]:
    """One completion per prompt, sampled at temperature 1 from the whole vocabulary, through `<|im_end|>`."""
    ids, lengths = pad(prompts), torch.tensor([len(prompt) for prompt in prompts])
    cache = SlotCache(torch.arange(ids.shape[1]).expand(ids.shape), ids.shape[1] + max_new_tokens)
    last, num_tokens, is_open = lengths - 1, torch.zeros_like(lengths), lengths > 0
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    while is_open.any() and len(tokens) < max_new_tokens:
        hidden = model.model(
            input_ids=ids,
            attention_mask=cache.mask(),
            position_ids=cache.positions,
            past_key_values=cast(Cache, cache),
        ).last_hidden_state
        logprobs_BV = model.lm_head(hidden[cache.rows[:, 0], last]).log_softmax(-1)
        ids = torch.multinomial(logprobs_BV.exp(), 1)
        tokens.append(ids)
        logprobs.append(logprobs_BV.gather(1, ids))
        num_tokens += is_open
        is_open &= ids[:, 0] != END_ID
        cache.positions, last = (lengths + len(tokens) - 1)[:, None], torch.zeros_like(last)
    columns = torch.cat(tokens, 1).tolist(), torch.cat(logprobs, 1).tolist(), num_tokens.tolist()
    return [Completion(ids=i[:n], logprobs=p[:n]) for i, p, n in zip(*columns, strict=True)]


# --- rollouts ---


@dataclass(kw_only=True, slots=True)
class Clock:
    """CPU seconds of all threads, by activity."""

    spent: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.process_time)

    def charge(self, activity: str) -> None:
        now = time.process_time()
        self.spent[activity] = self.spent.get(activity, 0.0) + now - self.last
        self.last = now


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    model: LlamaForCausalLM
    tokenizer: Tokenizer
    recipe: Recipe
    clock: Clock = field(default_factory=Clock)


def play(agent: Agent, tasks: list[Task]) -> list[Episode]:
    """One finished episode per task (name a task G times for a group); all advance together, turn by turn."""
    episodes = [Episode(task=task) for task in tasks]
    for episode in episodes:
        episode.extend(encode(agent.tokenizer, user_turn(episode.task.question)))
    for _ in range(agent.recipe.max_turns):
        if unfinished := [e for e in episodes if not e.is_done]:
            completions = generate(agent.model, [e.ids for e in unfinished], agent.recipe.max_new_tokens)
            agent.clock.charge("generate")
            for episode, completion in zip(unfinished, completions, strict=True):
                take_turn(agent, episode, completion)
            agent.clock.charge("tool")
    return episodes


def take_turn(agent: Agent, episode: Episode, completion: Completion) -> None:
    """Record what the policy wrote, let the environment move, append its observation if the game goes on."""
    is_closed = completion.ids[-1] == END_ID
    text = agent.tokenizer.decode(
        completion.ids[: len(completion.ids) - is_closed], skip_special_tokens=False
    )
    step = step_env(episode.task, text)
    episode.extend(completion.ids, completion.logprobs)
    episode.num_turns += 1
    episode.reward, episode.is_done = step.reward, step.is_done
    if not step.is_done and episode.num_turns < agent.recipe.max_turns:
        delta = ("" if is_closed else "<|im_end|>") + tool_turn(step.observation)
        episode.extend(encode(agent.tokenizer, delta))


@dataclass(frozen=True, kw_only=True, slots=True)
class PassRate:
    """pass@1 at temperature 1, one attempt per held-out task, with its 95% Wilson interval."""

    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.rate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def measure(agent: Agent, tasks: list[Task]) -> PassRate:
    n, z = len(tasks), 1.96
    p = sum(e.reward for e in play(replace(agent, clock=Clock()), tasks)) / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return PassRate(rate=p, low=(centre - half) / (1 + z * z / n), high=(centre + half) / (1 + z * z / n))


# --- learning ---


def demonstrate(agent: Agent, task: Task) -> Episode:
    """A conversation of the sloppy oracle: it calls the tool, or guesses a number that is never right."""
    episode = Episode(task=task)
    episode.extend(encode(agent.tokenizer, user_turn(task.question)))
    turns = oracle(task)
    if random.random() < agent.recipe.guess_rate:
        turns = [f"Answer: {int(task.reference) + random.choice((-1, 1)) * random.randint(1, 50)}"]
    for turn, text in enumerate(turns):
        ids = encode(agent.tokenizer, text + "<|im_end|>")
        episode.extend(ids, [0.0] * len(ids))
        if turn + 1 < len(turns):
            episode.extend(encode(agent.tokenizer, tool_turn(f"-> {task.reference}")))
    return episode


def warm_start(agent: Agent, demos: list[Episode]) -> None:
    """Supervised steps on the oracle's tokens, each demonstration once."""
    recipe, optimizer = agent.recipe, build_optimizer(agent.model)
    for step in range(recipe.warm_steps):
        batch = demos[step * recipe.warm_batch : (step + 1) * recipe.warm_batch]
        ids, sampled = pad([e.ids for e in batch]), pad([e.sampled for e in batch], False)[:, 1:]
        lr = recipe.warm_lr * min(1.0, (step + 1) / 20, 2 * (1 - step / recipe.warm_steps))
        loss = cross_entropy(logits(agent.model, ids, sampled), ids[:, 1:][sampled])
        update(agent, optimizer, loss, lr)


def logits(model: LlamaForCausalLM, ids: Tensor, sampled: Tensor) -> Tensor:
    """[S, V] what the model says before each sampled token, in the order of `ids[:, 1:][sampled]`."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    return cast(Tensor, model.lm_head(hidden[sampled]))


def build_optimizer(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)


def update(agent: Agent, optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> float:
    """One optimizer step; returns the norm of the gradient before clipping."""
    optimizer.param_groups[0]["lr"] = lr
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    norm = torch.nn.utils.clip_grad_norm_(agent.model.parameters(), agent.recipe.max_grad_norm)
    optimizer.step()
    return float(norm)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, without which the first steps wreck the policy, then a cosine down to a tenth."""
    if step < recipe.lr_warmup_steps:
        return recipe.lr * (step + 1) / recipe.lr_warmup_steps
    progress = (step - recipe.lr_warmup_steps) / max(1, recipe.steps - recipe.lr_warmup_steps)
    return recipe.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def group_advantages(rewards_NG: Tensor) -> Tensor:
    """[N, G] each episode against its siblings, in standard deviations; all zero where all siblings agree."""
    centred_NG = rewards_NG - rewards_NG.mean(1, keepdim=True)
    return centred_NG / (rewards_NG.std(1, keepdim=True, correction=0) + 1e-4)


def ppo_clip(agent: Agent, episodes: list[Episode], advantages: list[float]) -> Tensor:
    """The clipped surrogate: summed over all sampled tokens of the minibatch, divided by their number."""
    ids, sampled = pad([e.ids for e in episodes]), pad([e.sampled for e in episodes], False)[:, 1:]
    old_S = pad([e.logprobs for e in episodes], 0.0)[:, 1:][sampled]
    advantages_S = torch.tensor(advantages)[:, None].expand(sampled.shape)[sampled]
    new_S = -cross_entropy(logits(agent.model, ids, sampled), ids[:, 1:][sampled], reduction="none")
    ratio_S = (new_S - old_S).exp()
    clipped_S = ratio_S.clamp(1 - agent.recipe.clip_low, 1 + agent.recipe.clip_high)
    return -torch.minimum(ratio_S * advantages_S, clipped_S * advantages_S).mean()


def train_step(
    agent: Agent, optimizer: torch.optim.Optimizer, tasks: list[Task], step: int, shuffle: bool
) -> dict[str, float]:
    """Play a group per task, compare siblings, drop those without contrast, and learn from the rest."""
    recipe, started = agent.recipe, time.perf_counter()
    agent.clock.last = time.process_time()
    episodes = play(agent, [task for task in tasks for _ in range(recipe.group_size)])
    rewards = torch.tensor([e.reward for e in episodes])
    credited = rewards[torch.randperm(len(rewards))] if shuffle else rewards
    advantages = group_advantages(credited.view(-1, recipe.group_size)).flatten().tolist()
    kept = [i for i, advantage in enumerate(advantages) if advantage != 0.0]
    random.shuffle(kept)
    norms = []
    for part in filter(None, (kept[m :: recipe.num_minibatches] for m in range(recipe.num_minibatches))):
        loss = ppo_clip(agent, [episodes[i] for i in part], [advantages[i] for i in part])
        norms.append(update(agent, optimizer, loss, learning_rate(recipe, step)))
    agent.clock.charge("learn")
    return {
        "reward": float(rewards.mean()),
        "turns": sum(e.num_turns for e in episodes) / len(episodes),
        "tokens": sum(len(e.ids) for e in episodes) / len(episodes),
        "kept": len(kept) / len(episodes),
        "entropy": -sum(sum(e.logprobs) for e in episodes) / sum(sum(e.sampled) for e in episodes),
        "grad_norm": sum(norms) / max(1, len(norms)),
        "seconds": time.perf_counter() - started,
    }


def run(recipe: Recipe, *, seed: int, shuffle: bool) -> dict[str, Any]:
    """Baseline, warm start, GRPO; everything that --json writes."""
    random.seed(seed)
    torch.manual_seed(seed)
    held_out = list(islice(task_stream(10_000_019), recipe.num_held_out))
    stream = task_stream(seed, frozenset(task.question for task in held_out))
    demo_tasks = list(islice(stream, recipe.warm_steps * recipe.warm_batch))
    tokenizer = build_tokenizer(demo_tasks[:500])
    agent = Agent(model=build_model(tokenizer.get_vocab_size()), tokenizer=tokenizer, recipe=recipe)
    table = {"random init": measure(agent, held_out)}
    agent.clock.last = time.process_time()
    warm_start(agent, [demonstrate(agent, task) for task in demo_tasks])
    agent.clock.charge("warm start")
    table["warm start"] = measure(agent, held_out)
    print(f"random init {table['random init']}\nwarm start  {table['warm start']}")
    optimizer, history, curve = build_optimizer(agent.model), [], {0: table["warm start"].rate}
    for step in range(recipe.steps):
        history.append(train_step(agent, optimizer, list(islice(stream, recipe.num_tasks)), step, shuffle))
        print(
            f"step {step + 1:3d}", *(f"{name} {value:.3f}" for name, value in history[-1].items()), flush=True
        )
        if (step + 1) % recipe.eval_every == 0:
            curve[step + 1] = measure(agent, held_out).rate
            print(f"         held-out pass@1 {curve[step + 1]:.3f}", flush=True)
    table["GRPO"] = final = measure(agent, held_out)
    print("\npass@1 on held-out tasks", *(f"{name:12s} {rate}" for name, rate in table.items()), sep="\n")
    return {
        "seed": seed,
        "shuffled_rewards": shuffle,
        "baseline": table["random init"].rate,
        "warm_start": table["warm start"].rate,
        "final": final.rate,
        "interval": [final.low, final.high],
        "curve": curve,
        "episodes": recipe.steps * recipe.num_tasks * recipe.group_size,
        "cpu_seconds": agent.clock.spent,
        "recipe": asdict(recipe),
        "history": history,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Multi-turn, tool-using GRPO from scratch.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--shuffle-rewards", action="store_true", help="the control: rewards without meaning")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    torch.set_num_threads(2)
    result = run(Recipe(steps=args.steps), seed=args.seed, shuffle=args.shuffle_rewards)
    print("CPU seconds", *(f"{name} {value:.1f}" for name, value in result["cpu_seconds"].items()), sep="  ")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
