"""Every generator of reasoning-gym, judged by its own scorer. Comes with the extra `catalog`.

ReasoningGym.tasks(generator="sudoku", config={"max_empty": 40}, size=1000)
"""

import ast
import inspect
import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from ..cpu_limit import cpu_limit
from ..env import Env
from ..episode import Episode, Workspace
from ..graders.answer import final_answer
from ..graders.grading import AnyGrader
from ..message import Message, SystemMessage, UserMessage
from ..outcome import Score
from ..policy import Policy
from ..scripted import ScriptedPolicy
from ..task import Task, TaskSet
from ..worker import WorkerDied, in_worker

INSTRUCTIONS = "Give your final answer between <answer> and </answer>."
MAX_CPU_S = 5.0
"""Processor time of one score."""
MAX_CHARS = 20_000
"""Of an answer; a longer one is wrong."""
EVALUATES_LITERALS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Generators whose scorers hand the answer to Python's `eval`, for the sake of a list."""
EVALUATES_MATHS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Generators whose scorers hand the answer to SymPy, which evaluates it too."""
EVALUATES = EVALUATES_LITERALS | EVALUATES_MATHS | {"number_sorting"}  # that one: its own answer only
FUNCTIONS = re.compile(
    r"[^\W\d]|[Aa]bs|a?(sin|cos|tan)h?|cot|csc|sec|exp|ln|log|pi|sqrt",
)
"""The names that maths may hold: single letters, and functions that do nothing but compute."""
ANSWERS = ("possible_answer", "example_answer", "example_correct_answer")
"""Where generators without one right answer keep an example of one."""


@dataclass(frozen=True, slots=True)
class OwnScore:
    """What the generator's `score_answer` says, from 0 to 1; 0 without <answer> tags.

    Some of these scorers evaluate the answer, which here is the policy's text: they get it only when it is a
    literal, or maths of known functions. What breaks a scorer, or takes it too long, is wrong.
    """

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        said = re.findall(r"<answer>(.*?)</answer>", final_answer(episode, None) or "", re.DOTALL)
        if not said:
            return Score(reward=0.0, evidence="no <answer>...</answer> in the last message")
        answer = said[-1].strip()
        source, entry = task.private["source"], task.private["entry"]
        kind = source.generator if source.generator != "composite" else entry["metadata"]["source_dataset"]
        if len(answer) > MAX_CHARS or not is_harmless(kind, answer):
            return Score(reward=0.0, evidence=f"{answer[:100]!r} is no answer that {kind!r} may evaluate")
        try:
            reward, why = await in_worker(score, source, answer, entry)
        except WorkerDied as died:
            if died.exit_code == -signal.SIGKILL:  # from outside: nothing here ends in it
                raise
            reward, why = 0.0, f"{answer[:100]!r} has no score within {MAX_CPU_S:g} s: {died}"
        return Score(reward=reward, evidence=why)


class ReasoningGym(Env[Task]):
    """One question, one answer, in <answer> tags because it may have many lines."""

    grader: AnyGrader | None = OwnScore()

    @classmethod
    def tasks(
        cls,
        *,
        generator: str,
        config: Mapping[str, Any] | None = None,
        size: int = 500,
        seed: int = 0,
        instructions: str = INSTRUCTIONS,
    ) -> TaskSet:
        """`size` questions of a generator; `instructions=""` leaves the system message out.

        "composite" mixes others: config={"datasets": [{"name": "maze", "weight": 2}, {"name": "jugs"}]}.
        """
        source = Source(generator=generator, config=json.dumps(dict(config or {})), size=size, seed=seed)
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        return TaskSet(
            Task(
                id=f"{generator}-{seed}-{number}",
                messages=(*opening, UserMessage(entry["question"])),
                reference=_example(entry),
                private={"source": source, "entry": entry},
            )
            for number, entry in enumerate(dataset(source))
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Says the generator's own answer, or its example of one."""
        if task.reference is None:
            raise ValueError(f"task {task.id!r}: its generator shows no answer, it only judges them")
        return ScriptedPolicy([f"<answer>{task.reference}</answer>"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What makes a dataset, in a form that can be a key."""

    generator: str
    config: str
    """JSON."""
    size: int
    seed: int


@lru_cache(maxsize=8)
def dataset(source: Source) -> Any:
    """The generator's dataset. Raises `ValueError` for one that is unknown, or set up wrongly."""
    library: Any = import_module("reasoning_gym")  # takes a second
    config = json.loads(source.config)
    try:
        if source.generator == "composite":
            spec = import_module("reasoning_gym.composite").DatasetSpec
            config["datasets"] = [
                spec(**{"weight": 1.0, "config": {}, **row}) for row in config.get("datasets", ())
            ]
        made = library.create_dataset(source.generator, size=source.size, seed=source.seed, **config)
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"generator={source.generator!r}, config={config!r}: {error}; give a generator of reasoning-gym "
            "and its own settings"
        ) from error
    if source.generator not in EVALUATES and evaluates(made.__class__):
        raise ValueError(
            f"generator={source.generator!r} of this version evaluates answers, which are untrusted text; "
            "take the version of reasoning-gym that Palaestra is tested with"
        )
    return made


def evaluates(kind: type[Any]) -> bool:
    """Whether a class of datasets has a scorer that evaluates text."""
    return bool(re.search(r"\b(eval|exec|parse_expr|sympify)\(", inspect.getsource(kind.score_answer)))


def score(source: Source, answer: str, entry: Mapping[str, Any]) -> tuple[float, str]:
    """(score, why). For a worker process: ends it after `MAX_CPU_S` of processor time."""
    made = dataset(source)
    with cpu_limit(MAX_CPU_S):
        try:
            return float(made.score_answer(answer, dict(entry))), f"answer {answer[:200]!r}"
        except Exception as error:  # every kind: what breaks the scorer is the policy's own text, and wrong
            return 0.0, f"{answer[:100]!r} breaks the scorer: {type(error).__name__}"


def is_harmless(generator: str, answer: str) -> bool:
    """Whether the generator's scorer may see the answer, in case that it evaluates it.

    >>> is_harmless("countdown", "3*(4 + 5)"), is_harmless("countdown", "exit()")
    (True, False)
    """
    if generator in EVALUATES_MATHS:
        names = re.findall(r"[^\W\d]\w*", answer)
        return not re.search(r"""["'_\\@\[\]{};:=]|\.\s*[^\W\d]""", answer) and all(
            map(FUNCTIONS.fullmatch, names)
        )
    if generator in EVALUATES_LITERALS:
        try:
            tree = ast.parse(answer, mode="eval")
        except (SyntaxError, ValueError):
            return True  # `eval` cannot read it either
        except (RecursionError, MemoryError):
            return False
        return all(isinstance(node, _LITERAL) for node in ast.walk(tree))
    return True


_LITERAL = (ast.Expression, ast.List, ast.Tuple, ast.Constant, ast.UnaryOp, ast.USub, ast.Load, ast.Name)


def _example(entry: Mapping[str, Any]) -> str | None:
    if entry["answer"] is not None:
        return str(entry["answer"])
    found: Sequence[Any] = [entry["metadata"][name] for name in ANSWERS if name in entry["metadata"]]
    if not found:
        return None
    return found[0] if isinstance(found[0], str) else json.dumps(found[0])
