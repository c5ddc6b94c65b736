"""Where a run's tasks come from: an environment, or rows and a reward. Part of the recipe's schema."""

from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from ...envs import Budget
from .base import Section


class PartnerSection(Section):
    """A chat endpoint that plays a part inside the environment, such as its user."""

    url: str
    """Such as "http://127.0.0.1:8000/v1"."""
    model: str
    """The model's name at the endpoint."""
    api_key_env: str | None = None
    """Name of the environment variable with the key; the key itself never stands in a recipe."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Goes into each request: temperature, max_tokens and what else the endpoint knows."""


class EnvSection(Section):
    """Which environment, and which of its tasks."""

    id: str
    """A registered name (`palaestra.envs.env_names()`) or "module:Class"."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the environment's class."""
    partners: dict[str, PartnerSection] = Field(default_factory=dict)
    """More of these arguments, each a policy: `{user: {url: ..., model: ...}}`."""
    tasks: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of its `tasks` classmethod."""
    held_out: PositiveInt | None = None
    """Tasks kept from training and used by every evaluation, disjoint by prompt text; None: a tenth of the
    prompts, at most 500."""
    budget: Budget = Budget()
    """Overrides the environment's own limits one by one."""
    grader_timeout_s: PositiveFloat = 60.0


class DataSection(Section):
    """Rows instead of an environment; `data: train.jsonl` is short for `data: {path: train.jsonl}`."""

    path: str
    """A file, or `hf:NAME:SPLIT`, as `palaestra.envs.datasets` reads them."""
    prompt: str | None = None
    """The field with the prompt, where it is called otherwise."""
    reference: str | None = None
    """The field with the reference, where it is called otherwise."""
    held_out: PositiveInt | None = None
    """As of an environment; None: a tenth of the prompts, at most 500."""
    budget: Budget = Budget()
    """Limits of an episode; turns count where the rows have tools."""
    grader_timeout_s: PositiveFloat = 60.0

    @property
    def id(self) -> str:
        return self.path

    @property
    def options(self) -> dict[str, Any]:
        return {}


LARGEST_REWARD = 1e15
"""By size: the norm of a gradient in float32 adds up squares, which end at 3e38."""


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("write the floor first, then a larger maximum")
    if max(map(abs, bounds)) > LARGEST_REWARD:
        raise ValueError(
            f"rewards may go up to {LARGEST_REWARD:g}: the squares of larger ones leave the numbers that a "
            "gradient has; scale them down"
        )
    return bounds


class RewardSection(Section):
    """How the rows' answers are judged; `reward: my_rewards.py:score` is short for its `function`.

    What stands below `options` is for a `lambda_handler` and its like alone, but for `concurrency` and
    `timeout_s`, which a plain function has as well.
    """

    function: str
    """See `palaestra.envs.graders.load_reward`."""
    range: Annotated[tuple[float, float], AfterValidator(_rising)] = (0.0, 1.0)
    """Floor and maximum: a reward outside is no reward, and the maximum is a pass."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Fields of a preset, or of a grader's class: {rel_tol: 0.02} for finqa."""
    where: Literal["worker", "sandbox"] | None = None
    sandbox: dict[str, Any] = Field(default_factory=dict)
    """Fields of the `SandboxSpec` of where: sandbox, such as {backend: docker, image: "rewards:1"}."""
    batch: PositiveInt | None = None
    """Samples of one call; None: 16."""
    concurrency: PositiveInt | None = None
    """Calls at a time; None: 4 of a handler, 16 of a plain function, each in a process."""
    timeout_s: PositiveFloat | None = None
    """Of one call; None: 30 of a handler. `grader_timeout_s` limits all tries and waits together."""
    retries: NonNegativeInt | None = None
    """After throttling and 5xx; None: 4."""
    api_key_env: str | None = None
    """Name of the environment variable with a bearer token, for HTTP."""
    endpoint_url: str | None = None
    """Another server that speaks Lambda's API."""

    @property
    def call(self) -> dict[str, Any]:
        """What is said of the call, but for its sandbox."""
        return self.model_dump(exclude={"function", "range", "options", "sandbox"}, exclude_none=True)


SHORT = {"data": "path", "reward": "function"}
"""Sections that may be one word, and the field that it is."""


def spelled_out(fields: Any) -> Any:
    """The fields of a recipe with whole sections for those that are one word.

    >>> spelled_out({"data": "train.jsonl"})
    {'data': {'path': 'train.jsonl'}}
    """
    if not isinstance(fields, dict):
        return fields
    given = cast(dict[str, Any], fields)
    words = {name: {field: given[name]} for name, field in SHORT.items() if isinstance(given.get(name), str)}
    return {**given, **words}
