"""Models, and the engine that samples from one. Part of the recipe's schema."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from .base import AnyPath, Section


class TinyModel(Section):
    """A model made on the spot from random weights, with a tokenizer trained on demonstrations."""

    hidden: PositiveInt = 128
    layers: PositiveInt = 2
    heads: PositiveInt = 8
    kv_heads: PositiveInt = 4
    head_dim: PositiveInt = 32
    intermediate: PositiveInt = 256
    vocab: Annotated[int, Field(ge=128)] = 192
    """Upper bound; the tokenizer may need fewer."""
    rope_theta: PositiveFloat = 100.0
    """Small, so that few layers learn soon to look at the token before."""
    init_std: Annotated[float, Field(gt=0, le=1)] = 0.06
    max_context: PositiveInt = 1024
    """Positions that the model is made for."""


def _not_ours(options: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(options.keys() & {"messages", "tools", "add_generation_prompt"}):
        raise ValueError(f"{taken[0]} is what the conversation is rendered from; leave it out")
    return options


class ModelSection(Section):
    """Exactly one of `path`, `start` and `tiny`."""

    path: AnyPath | None = None
    """A folder in Hugging Face format."""
    start: AnyPath | None = None
    """A run, one of its checkpoints, an adapter or a model, to go on from with a fresh optimizer; the run
    makes a whole model of its own of it, so that it may train another rank, or every parameter."""
    tiny: TinyModel | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is trained, and sampled by the local engine: "auto" is a GPU where there is one."""
    tool_format: str = "hermes"
    """How tool calls are written: "hermes", "react", or "none" where there are no tools."""
    describe_tools: bool = True
    """Tell the model its tools. A model that was warmed up on one set of tools may know them."""
    history: Literal["append", "template"] = "append"
    """"append" never re-renders; "template" does, as the chat template wants, and forks where it must."""
    template_options: Annotated[dict[str, Any], AfterValidator(_not_ours)] = Field(default_factory=dict)
    """Of the chat template, such as {enable_thinking: false} or {reasoning_effort: high}; what it has no
    use for, it does not read."""


class EngineSection(Section):
    """What samples the tokens."""

    kind: Literal["local", "vllm"] = "local"
    slots: PositiveInt = 128
    """Requests decoded together (local)."""
    max_context: Annotated[int, Field(ge=2)] | None = None
    """Tokens of prompt and answer together; None: what the model was made for."""
    url: str | None = None
    """A running vLLM server; None starts one (vllm)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of a started server; 0 picks a free one."""
    api_key_env: str | None = None
    """Name of the environment variable with the server's key; the key itself never stands in a recipe."""
    args: list[str] = Field(default_factory=list)
    """More arguments for a started vLLM server."""
    max_in_flight: PositiveInt = 128
    """Episodes played at the same time."""
    stuck_after_s: PositiveFloat = 300.0
    """Seconds without a finished episode after which the run says what its episodes wait for."""
    canary_bound: PositiveFloat | None = None
    """Largest difference of engine and learner log-probabilities before the first step and after a publish,
    nats (vllm). None: what is usual for `model.dtype`, in bfloat16 a bound on the mean."""


class SamplingSection(Section):
    temperature: Annotated[float, Field(ge=0.01)] = 1.0
    """vLLM takes 0.01 for anything below."""
    max_tokens: PositiveInt = 256
    """Tokens of one answer."""
