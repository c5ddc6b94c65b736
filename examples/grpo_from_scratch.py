"""Multi-turn, tool-using GRPO from scratch: model, tokenizer, warm start, rollouts, loss and evaluation in one file.

    python examples/grpo_from_scratch.py --seed 0 --json /tmp/grpo.json

The agent sees a reasoning-gym question, may write one line of Python as a tool call, reads what it printed, and answers:

    <|im_start|>user
    Calculate 85--60*3.<|im_end|>
    <|im_start|>assistant
    Action: python
    Action Input: print(85--60*3)<|im_end|>       sampled: trained
    <|im_start|>tool
    -> 265<|im_end|>                              written by the environment: masked
    <|im_start|>assistant
    Answer: 265<|im_end|>                         sampled: trained

Reward: 1.0 when the answer equals reasoning-gym's reference, else 0.0. Errors are observations and cost a turn.

Shapes: B rows, T tokens of a row, V vocabulary, H key/value heads, D head size, G episodes of one task, N episodes of a step.
"""

import argparse
import ast
import json
import math
import operator
import random
import re
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import reasoning_gym
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForCausalLM

DEBUG = False
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
PAD_ID, START_ID, END_ID = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every number that decides how well the policy learns."""

    min_terms: int = 3
    max_terms: int = 3
    min_digits: int = 2
    max_digits: int = 2

    vocab_size: int = 192
    hidden: int = 128
    layers: int = 2
    heads: int = 8
    mlp: int = 256
    tie: bool = False
    init: float = 0.06
    theta: float = 100.0
    arch: str = "llama"
    head_dim: int = 32
    kv: int = 4

    warm_steps: int = 200
    warm_batch: int = 16
    warm_lr: float = 3e-3
    guess: float = 0.0

    steps: int = 200
    tasks_per_step: int = 16
    group_size: int = 8
    epochs: int = 1
    minibatches: int = 1
    lr: float = 1e-3
    lr_warmup_steps: int = 10
    lr_floor: float = 0.1
    beta2: float = 0.95
    weight_decay: float = 0.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    max_grad_norm: float = 1.0
    std_norm: bool = True
    std_floor: float = 1e-4

    max_turns: int = 3
    max_new_tokens: int = 28
    eval_tasks: int = 512
    eval_every: int = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    question: str
    reference: str


@dataclass(kw_only=True, slots=True)
class Episode:
    """One attempt at a task. The three lists have one entry per token of the whole conversation."""

    task: Task
    ids: list[int]
    sampled: list[bool]
    """True where the policy chose the token. Built from lengths: the policy may sample a pad token."""
    logprobs: list[float]
    """nats under the policy that sampled; 0.0 where `sampled` is False."""
    reward: float = 0.0
    is_done: bool = False
    num_turns: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    ids: list[int]
    logprobs: list[float]


# --- the task and its tool -----------------------------------------------------------------------------------------------


def task_stream(recipe: Recipe, seed: int, exclude: set[str]) -> Iterator[Task]:
    """Endless distinct reasoning-gym tasks, none with a question in `exclude`."""
    dataset = reasoning_gym.create_dataset(
        "chain_sum",
        size=1_000_000,
        seed=seed,
        min_terms=recipe.min_terms,
        max_terms=recipe.max_terms,
        min_digits=recipe.min_digits,
        max_digits=recipe.max_digits,
    )
    seen = set(exclude)
    for index in range(1_000_000):
        entry = dataset[index]
        if entry["question"] not in seen:
            seen.add(entry["question"])
            yield Task(question=entry["question"], reference=entry["answer"])


OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def evaluate(node: ast.AST) -> float:
    """The value of an arithmetic syntax tree; ValueError on anything else."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(left), evaluate(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(operand))
    raise ValueError(f"{type(node).__name__} is not allowed")


def run_python(code: str) -> str:
    """What `print(<arithmetic>)` prints, or an error line. NOT a sandbox: an evaluator of + - * that runs nothing else."""
    try:
        tree = ast.parse(code, mode="eval").body
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "print"):
            return ""
        return " ".join(str(evaluate(argument)) for argument in tree.args)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"error: {type(error).__name__}"


ACTION = re.compile(r"Action: python\nAction Input: ([^\n]*)")
ANSWER = re.compile(r"Answer: (-?[0-9]+)")


def step_env(task: Task, text: str) -> tuple[str | None, float]:
    """(observation, 0.0) while the episode goes on, (None, reward) when the policy has answered."""
    if action := ACTION.fullmatch(text):
        return f"-> {run_python(action[1])}", 0.0
    if answer := ANSWER.fullmatch(text):
        return None, float(answer[1] == task.reference)
    return "-> error: no action", 0.0


# --- tokens --------------------------------------------------------------------------------------------------------------


def user_turn(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def tool_turn(observation: str) -> str:
    return f"\n<|im_start|>tool\n{observation}<|im_end|>\n<|im_start|>assistant\n"


def oracle_turns(task: Task) -> list[str]:
    """What a perfect agent writes, turn by turn."""
    code = 'print(' + task.question.split(': ')[1].removesuffix(' =') + ')'
    return [f"Action: python\nAction Input: {code}", f"Answer: {run_python(code)}"]


def build_tokenizer(tasks: list[Task], vocab_size: int) -> Tokenizer:
    """BPE over printable ASCII, trained on demonstrations; digits and operators are always tokens of their own."""
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[0-9()]|\n|-> "), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    alphabet = [c for c in string.printable if c.isprintable()] + ["\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    texts = [
        user_turn(t.question) + tool_turn("-> ").join(oracle_turns(t)) + tool_turn("-> error: SyntaxError")
        for t in tasks
    ]
    plain = [re.sub(r"<\|im_(start|end)\|>", "\n", text) for text in texts]
    tokenizer.train_from_iterator(plain, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text


def pad(rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [PAD_ID] * (width - len(row)) for row in rows])


# --- the policy ----------------------------------------------------------------------------------------------------------


def build_model(recipe: Recipe, vocab_size: int) -> Qwen2ForCausalLM:
    import transformers
    C, M = dict(llama=(transformers.LlamaConfig, transformers.LlamaForCausalLM), qwen2=(transformers.Qwen2Config, transformers.Qwen2ForCausalLM), qwen3=(transformers.Qwen3Config, transformers.Qwen3ForCausalLM))[recipe.arch]
    config = C(
        head_dim=recipe.head_dim,
        vocab_size=vocab_size,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv or recipe.heads,
        max_position_embeddings=256,
        initializer_range=recipe.init,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.theta},
        tie_word_embeddings=recipe.tie,
        pad_token_id=PAD_ID,
        bos_token_id=START_ID,
        eos_token_id=END_ID,
        attn_implementation="sdpa",
    )
    return M(config)


class SlotCache:
    """Keys and values of B left-aligned rows, each at its own length; position p of a row lives in slot p."""

    def __init__(self, num_rows: int, num_slots: int) -> None:
        self.rows = torch.arange(num_rows)[:, None]
        self.slots = torch.arange(num_slots)
        self.positions = torch.zeros(num_rows, 1, dtype=torch.long)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def mask(self) -> Tensor:
        """[B, 1, T, slots] every query sees the slots up to its own."""
        return (self.slots <= self.positions[:, :, None])[:, None]

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Called by transformers with [B, H, T, D]: store at `positions`, return every slot."""
        if layer not in self.layers:
            shape = (key.shape[0], len(self.slots), key.shape[1], key.shape[3])
            self.layers[layer] = (key.new_zeros(shape), key.new_zeros(shape))
        keys, values = self.layers[layer]
        keys[self.rows, self.positions] = key.transpose(1, 2)
        values[self.rows, self.positions] = value.transpose(1, 2)
        return keys.transpose(1, 2), values.transpose(1, 2)


@torch.inference_mode()
def generate(
    model: Qwen2ForCausalLM, prompts: list[list[int]], max_new: int, greedy: bool = False
) -> list[Completion]:
    """One completion per prompt, sampled at temperature 1 from the whole vocabulary, up to and with `<|im_end|>`."""
    ids, lengths = pad(prompts), torch.tensor([len(p) for p in prompts])
    cache = SlotCache(len(prompts), ids.shape[1] + max_new)
    cache.positions = torch.arange(ids.shape[1]).expand(ids.shape)
    picked = lengths - 1
    tokens, logprobs, is_open = [], [], torch.ones(len(prompts), dtype=torch.bool)
    num_tokens = torch.zeros(len(prompts), dtype=torch.long)
    for _ in range(max_new):
        out = model.model(
            input_ids=ids, attention_mask=cache.mask(), position_ids=cache.positions, past_key_values=cache
        )
        hidden = out.last_hidden_state[torch.arange(len(prompts)), picked]
        logprobs_BV = model.lm_head(hidden).float().log_softmax(-1)
        ids = logprobs_BV.argmax(-1, keepdim=True) if greedy else torch.multinomial(logprobs_BV.exp(), 1)
        tokens.append(ids)
        logprobs.append(logprobs_BV.gather(1, ids))
        num_tokens += is_open
        is_open &= ids[:, 0] != END_ID
        if not is_open.any():
            break
        cache.positions = (lengths + len(tokens) - 1)[:, None]
        picked = torch.zeros_like(picked)
    rows = zip(
        torch.cat(tokens, 1).tolist(), torch.cat(logprobs, 1).tolist(), num_tokens.tolist(), strict=True
    )
    return [Completion(ids=row[:n], logprobs=lps[:n]) for row, lps, n in rows]


# --- rollouts ------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Clock:
    """CPU seconds of this process (all threads) by activity."""

    spent: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.process_time)

    def charge(self, activity: str) -> None:
        now = time.process_time()
        self.spent[activity] = self.spent.get(activity, 0.0) + now - self.last
        self.last = now


def extend(episode: Episode, ids: list[int], logprobs: list[float] | None = None) -> None:
    """Append a delta. Old ids are never touched or encoded again."""
    episode.ids += ids
    episode.sampled += [logprobs is not None] * len(ids)
    episode.logprobs += logprobs if logprobs is not None else [0.0] * len(ids)


def play(
    model: Qwen2ForCausalLM,
    tokenizer: Tokenizer,
    tasks: list[Task],
    recipe: Recipe,
    clock: Clock,
    greedy: bool = False,
) -> list[Episode]:
    """One finished episode per task (repeat a task for a group); all of them advance turn by turn together."""
    episodes = [Episode(task=task, ids=[], sampled=[], logprobs=[]) for task in tasks]
    for episode in episodes:
        extend(episode, encode(tokenizer, user_turn(episode.task.question)))
    for turn in range(recipe.max_turns):
        open_episodes = [e for e in episodes if not e.is_done]
        if not open_episodes:
            break
        clock.charge("other")
        completions = generate(model, [e.ids for e in open_episodes], recipe.max_new_tokens, greedy)
        clock.charge("generate")
        for episode, completion in zip(open_episodes, completions, strict=True):
            extend(episode, completion.ids, completion.logprobs)
            episode.num_turns = turn + 1
            is_closed = completion.ids[-1] == END_ID
            text = decode(tokenizer, completion.ids[: len(completion.ids) - is_closed])
            observation, episode.reward = step_env(episode.task, text)
            episode.is_done = observation is None
            if observation is not None and turn + 1 < recipe.max_turns:
                extend(
                    episode, encode(tokenizer, ("" if is_closed else "<|im_end|>") + tool_turn(observation))
                )
        clock.charge("tool")
    return episodes


# --- learning ------------------------------------------------------------------------------------------------------------


def warm_start(model: Qwen2ForCausalLM, tokenizer: Tokenizer, tasks: list[Task], recipe: Recipe) -> None:
    """A few supervised steps on the oracle's conversations: enough to try the format, too few to get it right."""
    demos = []
    for task in tasks:
        episode = Episode(task=task, ids=[], sampled=[], logprobs=[])
        extend(episode, encode(tokenizer, user_turn(task.question)))
        call, answer = oracle_turns(task)
        if random.random() < recipe.guess:
            ids = encode(tokenizer, f"Answer: {int(task.reference) + random.choice([-1, 1]) * random.randint(1, 50)}<|im_end|>")
            extend(episode, ids, [0.0] * len(ids))
            demos.append(episode)
            continue
        for text, delta in ((call, tool_turn(f"-> {task.reference}")), (answer, "")):
            ids = encode(tokenizer, text + "<|im_end|>")
            extend(episode, ids, [0.0] * len(ids))
            extend(episode, encode(tokenizer, delta))
        demos.append(episode)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.warm_lr, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay
    )
    for step in range(recipe.warm_steps):
        batch = demos[step * recipe.warm_batch : (step + 1) * recipe.warm_batch]
        ids, sampled = pad([e.ids for e in batch]), pad([list(map(int, e.sampled)) for e in batch]).bool()
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits[sampled[:, 1:]], ids[:, 1:][sampled[:, 1:]])
        for group in optimizer.param_groups:
            group["lr"] = recipe.warm_lr * min(1.0, (step + 1) / 20, 2 * (1 - step / recipe.warm_steps))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if DEBUG and step % 25 == 24: print(step + 1, round(float(loss.detach()), 4))


def advantages(rewards_NG: Tensor, recipe: Recipe) -> Tensor:
    centred = rewards_NG - rewards_NG.mean(1, keepdim=True)
    if recipe.std_norm:
        centred = centred / (rewards_NG.std(1, keepdim=True, correction=0) + recipe.std_floor)
    return centred.flatten()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to `lr_floor`."""
    if step < recipe.lr_warmup_steps:
        return recipe.lr * (step + 1) / recipe.lr_warmup_steps
    progress = (step - recipe.lr_warmup_steps) / max(1, recipe.steps - recipe.lr_warmup_steps)
    return recipe.lr * (recipe.lr_floor + (1 - recipe.lr_floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def learn(
    model: Qwen2ForCausalLM,
    optimizer: torch.optim.AdamW,
    episodes: list[Episode],
    advantages_N: Tensor,
    recipe: Recipe,
) -> dict[str, float]:
    """PPO-clip over the sampled tokens, with one token normaliser per optimizer step."""
    kept = [i for i, a in enumerate(advantages_N.tolist()) if a != 0.0]
    stats = {"entropy": 0.0, "grad_norm": 0.0}
    num_updates = 0
    if not kept:
        return stats
    for _ in range(recipe.epochs):
        random.shuffle(kept)
        for m in range(recipe.minibatches):
            chosen = kept[m :: recipe.minibatches]
            if not chosen:
                continue
            batch = [episodes[i] for i in chosen]
            ids = pad([e.ids for e in batch])
            width = ids.shape[1]
            sampled = torch.tensor([e.sampled + [False] * (width - len(e.ids)) for e in batch])[:, 1:]
            old = torch.tensor([e.logprobs + [0.0] * (width - len(e.ids)) for e in batch])[:, 1:][sampled]
            advantage = advantages_N[chosen][:, None].expand(sampled.shape)[sampled]
            hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[sampled]
            logprobs_SV = model.lm_head(hidden).log_softmax(-1)
            new = logprobs_SV.gather(1, ids[:, 1:][sampled][:, None])[:, 0]
            ratio = (new - old).exp()
            clipped = ratio.clamp(1 - recipe.clip_low, 1 + recipe.clip_high)
            loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            stats["entropy"] += float(-(logprobs_SV.exp() * logprobs_SV).sum(-1).mean().detach())
            stats["grad_norm"] += float(norm)
            num_updates += 1
    return {k: v / num_updates for k, v in stats.items()}


# --- evaluation ----------------------------------------------------------------------------------------------------------


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95% interval of a rate: wilson(50, 100) == (0.404, 0.596)."""
    z, p = 1.96, successes / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def pass_at_1(
    model: Qwen2ForCausalLM, tokenizer: Tokenizer, tasks: list[Task], recipe: Recipe, greedy: bool = False
) -> float:
    episodes = play(model, tokenizer, tasks, recipe, Clock(), greedy)
    return sum(e.reward for e in episodes) / len(episodes)


def run(recipe: Recipe, seed: int, shuffle: bool, log: Callable[[str], None] = print) -> dict[str, object]:
    random.seed(seed)
    torch.manual_seed(seed)
    held_out_stream = task_stream(recipe, seed=10_000_019, exclude=set())
    held_out = [next(held_out_stream) for _ in range(recipe.eval_tasks)]
    stream = task_stream(recipe, seed=seed, exclude={t.question for t in held_out})
    demos = [next(stream) for _ in range(recipe.warm_steps * recipe.warm_batch)]
    tokenizer = build_tokenizer(demos[:1000], recipe.vocab_size)
    model = build_model(recipe, tokenizer.get_vocab_size())
    result: dict[str, object] = {"seed": seed, "recipe": asdict(recipe)}
    t0 = time.process_time()
    result["baseline"] = pass_at_1(model, tokenizer, held_out, recipe)
    warm0 = time.process_time()
    warm_start(model, tokenizer, demos, recipe)
    result["warm_cpu"] = time.process_time() - warm0
    result["warm_start"] = pass_at_1(model, tokenizer, held_out, recipe)
    result["warm_greedy"] = pass_at_1(model, tokenizer, held_out, recipe, True)
    params = sum(p.numel() for p in model.parameters())
    log(
        f"params {params} vocab {tokenizer.get_vocab_size()} baseline {result['baseline']:.3f} warm {result['warm_start']:.3f} greedy {result['warm_greedy']:.3f} warm cpu {result['warm_cpu']:.1f}"
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay
    )
    clock = Clock()
    curve = [(0, result["warm_start"])]
    num_tok = num_samp = num_ep = 0
    for step in range(recipe.steps):
        tasks = [next(stream) for _ in range(recipe.tasks_per_step)]
        episodes = play(model, tokenizer, [t for t in tasks for _ in range(recipe.group_size)], recipe, clock)
        rewards = torch.tensor([e.reward for e in episodes])
        if shuffle:
            rewards = rewards[torch.randperm(len(rewards))]
        adv = advantages(rewards.view(recipe.tasks_per_step, recipe.group_size), recipe)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        stats = learn(model, optimizer, episodes, adv, recipe)
        clock.charge("learn")
        num_ep += len(episodes)
        num_tok += sum(len(e.ids) for e in episodes)
        num_samp += sum(sum(e.sampled) for e in episodes)
        if (step + 1) % recipe.eval_every == 0:
            p = pass_at_1(model, tokenizer, held_out, recipe)
            curve.append((step + 1, p))
            log(
                f"step {step + 1} train {float(rewards.mean()):.3f} eval {p:.3f} turns {sum(e.num_turns for e in episodes) / len(episodes):.2f} zero-adv {float((adv == 0).float().mean()):.2f} ent {stats['entropy']:.3f} gn {stats['grad_norm']:.2f} cpu { {k: round(v, 1) for k, v in clock.spent.items()} } ep {num_ep} tok/ep {num_tok / num_ep:.1f} samp/ep {num_samp / num_ep:.1f}"
            )
            clock.last = time.process_time()
    result["curve"] = curve
    result["final"] = curve[-1][1]
    result["final_greedy"] = pass_at_1(model, tokenizer, held_out, recipe, True)
    result["interval"] = wilson(float(result["final"]) * recipe.eval_tasks, recipe.eval_tasks)
    result["cpu"] = clock.spent
    log(
        f"final {result['final']:.3f} greedy {result['final_greedy']:.3f} {result['interval']} total cpu {time.process_time() - t0:.1f}"
    )
    return result
