"""A Qwen2, Qwen3 or Llama decoder over a cache of slots, one row per token.

transformers' static cache has one position for the whole batch and attends over all of it. Here every row
has a slot and a position of its own, so that prompts, answers and their continuations share a forward, and
attention ends where the longest row does. It reads the same weights and does the same arithmetic, which a
test compares.

Shapes: M rows, S slots, N cache positions looked at, H heads, K key-value heads, D head size, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

_FAMILIES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Rows [start, stop) are consecutive tokens of one slot."""

    slot: int
    start: int
    stop: int
    reach: int
    """Cache positions to look at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """All singles look at `reach` cache positions; the result counts for some of them."""

    reach: int
    rows: Tensor | None = None
    """[singles] bool; None for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The rows of one forward: first `singles` rows of any slots, then the chunks."""

    ids_M: Tensor
    slots_M: Tensor
    positions_M: Tensor
    singles: int
    in_place: bool
    """Row i of the singles belongs to slot i, so that the cache is read without a copy."""
    tiers: Sequence[Tier]
    """Cover the singles."""
    chunks: Sequence[Chunk] = ()
    wanted: Tensor | None = None
    """Rows whose logits are asked for; None for all."""


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    attention_norm: Tensor
    qkv: _Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    out: _Linear
    mlp_norm: Tensor
    gate_up: _Linear
    down: _Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A copy of one version's parameters, fused for decoding."""

    embedding: Tensor
    layers: tuple[_Layer, ...] = field(repr=False)
    norm: Tensor
    head: Tensor


class Decoder:
    """The architecture and the cache; `Weights` come with each call.

    Raises ValueError for a model that it does not know.
    """

    def __init__(self, model: torch.nn.Module, *, slots: int, max_context: int) -> None:
        config: Any = model.config
        _check_family(config)
        self.state = dict(model.state_dict())
        """The parameters that the engine starts with."""
        self.dtype = self.state["model.embed_tokens.weight"].dtype
        self.device = self.state["model.embed_tokens.weight"].device
        self._tied = bool(config.tie_word_embeddings)
        self._eps = float(config.rms_norm_eps)
        self._heads, self._kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._head_size = int(getattr(config, "head_dim", None) or config.hidden_size // self._heads)
        self._num_layers = int(config.num_hidden_layers)
        self.context = -(-max_context // 16) * 16
        """Cache positions of a slot."""
        # One slot more than is handed out: rows that only fill up a fixed shape write there.
        shape = (slots + 1, self._kv_heads, self.context, self._head_size)
        new = {"dtype": self.dtype, "device": self.device}
        self._keys = [torch.zeros(shape, **new) for _ in range(self._num_layers)]
        self._values = [torch.zeros(shape, **new) for _ in range(self._num_layers)]
        self._cos, self._sin = self._rotary_tables(model)

    @property
    def spare_slot(self) -> int:
        """Takes the rows that belong to no request."""
        return self._keys[0].shape[0] - 1

    def weights(self, state: Mapping[str, Tensor]) -> Weights:
        """Copy `state`, parameters by their transformers names. Raises ValueError on a name or shape."""
        self._check_names(state)
        found = {name: value.detach().to(self.device, self.dtype) for name, value in state.items()}

        def fuse(prefix: str, *names: str) -> _Linear:
            biases = [found[f"{prefix}.{name}.bias"] for name in names if f"{prefix}.{name}.bias" in found]
            weight = torch.cat([found[f"{prefix}.{name}.weight"] for name in names])
            return _Linear(weight, torch.cat(biases) if biases else None)

        def copy(name: str) -> Tensor:
            return found[name].clone()

        def copy_if_any(name: str) -> Tensor | None:
            return found[name].clone() if name in found else None

        layers = list[_Layer]()
        for index in range(self._num_layers):
            layer = f"model.layers.{index}"
            layers.append(
                _Layer(
                    attention_norm=copy(f"{layer}.input_layernorm.weight"),
                    qkv=fuse(f"{layer}.self_attn", "q_proj", "k_proj", "v_proj"),
                    query_norm=copy_if_any(f"{layer}.self_attn.q_norm.weight"),
                    key_norm=copy_if_any(f"{layer}.self_attn.k_norm.weight"),
                    out=fuse(f"{layer}.self_attn", "o_proj"),
                    mlp_norm=copy(f"{layer}.post_attention_layernorm.weight"),
                    gate_up=fuse(f"{layer}.mlp", "gate_proj", "up_proj"),
                    down=fuse(f"{layer}.mlp", "down_proj"),
                )
            )
        embedding = copy("model.embed_tokens.weight")
        head = embedding if self._tied else copy("lm_head.weight")
        return Weights(embedding=embedding, layers=tuple(layers), norm=copy("model.norm.weight"), head=head)

    @torch.inference_mode()
    def forward(self, weights: Weights, batch: Batch) -> Tensor:
        """[wanted, V] logits; the cache then holds the batch's tokens."""
        cos = F.embedding(batch.positions_M, self._cos)[:, None]
        sin = F.embedding(batch.positions_M, self._sin)[:, None]
        cells = self._cells(batch)
        masks = self._masks(batch)
        x = F.embedding(batch.ids_M, weights.embedding)
        for index, layer in enumerate(weights.layers):
            qkv = layer.qkv(self._norm(x, layer.attention_norm)).view(x.shape[0], -1, self._head_size)
            turned, values = qkv[:, : -self._kv_heads], qkv[:, -self._kv_heads :]
            if layer.query_norm is not None and layer.key_norm is not None:
                queries, keys = turned[:, : self._heads], turned[:, self._heads :]
                queries, keys = self._norm(queries, layer.query_norm), self._norm(keys, layer.key_norm)
                turned = torch.cat([queries, keys], dim=1)
            turned = _rotate(turned, cos, sin)
            queries, keys = turned[:, : self._heads], turned[:, self._heads :]
            for cache, new in ((self._keys[index], keys), (self._values[index], values)):
                cache.view(-1, self._head_size).index_copy_(0, cells, new.reshape(-1, self._head_size))
            x = x + layer.out(self._attend(queries, index, batch, masks))
            gate, up = layer.gate_up(self._norm(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        if batch.wanted is not None:
            x = x[batch.wanted]
        return F.linear(self._norm(x, weights.norm), weights.head)

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Take the first positions of one slot over into another."""
        for cache in (*self._keys, *self._values):
            cache[target, :, :length] = cache[source, :, :length]

    def _cells(self, batch: Batch) -> Tensor:
        """[M * K] where the rows' keys and values go, in a cache seen as [S * K * N, D]."""
        heads = torch.arange(self._kv_heads, device=self.device)
        lanes_MK = batch.slots_M[:, None] * self._kv_heads + heads
        return (lanes_MK * self.context + batch.positions_M[:, None]).reshape(-1)

    def _attend(self, queries_MHD: Tensor, index: int, batch: Batch, masks: list[Tensor]) -> Tensor:
        keys, values = self._keys[index], self._values[index]
        out = [self._attend_singles(queries_MHD, keys, values, batch, masks)] if batch.singles else []
        for chunk, mask in zip(batch.chunks, masks[len(batch.tiers) :], strict=True):
            attended = F.scaled_dot_product_attention(
                queries_MHD[None, chunk.start : chunk.stop].transpose(1, 2),
                keys[None, chunk.slot, :, : chunk.reach],
                values[None, chunk.slot, :, : chunk.reach],
                attn_mask=mask,
                enable_gqa=self._heads != self._kv_heads,
            )
            out.append(attended[0].transpose(0, 1).reshape(chunk.stop - chunk.start, -1))
        return out[0] if len(out) == 1 else torch.cat(out)

    def _attend_singles(
        self, queries_MHD: Tensor, keys: Tensor, values: Tensor, batch: Batch, masks: list[Tensor]
    ) -> Tensor:
        rows = batch.singles
        lanes = slice(0, rows) if batch.in_place else batch.slots_M[:rows]
        queries = queries_MHD[:rows].reshape(rows, self._kv_heads, -1, self._head_size)
        result: Tensor | None = None
        for tier, mask in zip(batch.tiers, masks, strict=False):
            # The queries of one key-value head stand in for positions: no head is copied for its group.
            attended = F.scaled_dot_product_attention(
                queries, keys[:, :, : tier.reach][lanes], values[:, :, : tier.reach][lanes], attn_mask=mask
            ).reshape(rows, -1)
            if result is None or tier.rows is None:
                result = attended
            else:
                result = torch.where(tier.rows[:, None], attended, result)
        assert result is not None
        return result

    def _masks(self, batch: Batch) -> list[Tensor]:
        """[singles, 1, 1, N] for each tier, then [rows, N] for each chunk; added to the scores."""

        def mask(start: int, stop: int, reach: int) -> Tensor:
            seen = torch.arange(reach, device=self.device) <= batch.positions_M[start:stop, None]
            return torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(
                ~seen, float("-inf")
            )

        singles = [mask(0, batch.singles, tier.reach)[:, None, None] for tier in batch.tiers]
        return [*singles, *(mask(chunk.start, chunk.stop, chunk.reach) for chunk in batch.chunks)]

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return F.rms_norm(x, (x.shape[-1],), weight, self._eps)
        # transformers normalises in float32 whatever the model's type is.
        x32 = x.to(torch.float32)
        return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self._eps)).to(x.dtype)

    def _rotary_tables(self, model: Any) -> tuple[Tensor, Tensor]:
        rotary = model.model.rotary_emb
        angles = torch.arange(self.context, device=self.device).float()[:, None] * rotary.inv_freq.float()
        angles = torch.cat([angles, angles], dim=-1)
        scale = rotary.attention_scaling
        return (angles.cos() * scale).to(self.dtype), (angles.sin() * scale).to(self.dtype)

    def _check_names(self, state: Mapping[str, Tensor]) -> None:
        expected, got = set(self.state), set(state)
        if self._tied:
            expected, got = expected - {"lm_head.weight"}, got - {"lm_head.weight"}
        if expected != got:
            missing, unknown = sorted(expected - got), sorted(got - expected)
            raise ValueError(
                f"state: missing {missing[:3]}, unknown {unknown[:3]}; needs the model's own names"
            )
        for name in expected:
            if state[name].shape != self.state[name].shape:
                shapes = f"{tuple(state[name].shape)} instead of {tuple(self.state[name].shape)}"
                raise ValueError(f"state[{name!r}]: shape {shapes}")


def load_model(path: str | Path, dtype: str = "auto") -> torch.nn.Module:
    """A transformers model from a local folder, without running code from it; "auto" is as it is stored."""
    import transformers

    untyped: Any = transformers
    untyped.utils.logging.disable_progress_bar()
    try:
        model: torch.nn.Module = untyped.AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=False, local_files_only=True, use_safetensors=True
        )
    except SafetensorError as error:  # a class of its own, for a damaged file
        raise OSError(f"{path}: {error}") from error
    return model.eval()


def _check_family(config: Any) -> None:
    if config.model_type not in _FAMILIES:
        raise ValueError(f"model_type {config.model_type!r}: LocalEngine decodes {_FAMILIES}; use VllmEngine")
    if getattr(config, "use_sliding_window", False):
        raise ValueError("use_sliding_window: LocalEngine has full attention only; use VllmEngine")
    if config.rope_parameters["rope_type"] in ("dynamic", "longrope"):
        raise ValueError(f"rope_type {config.rope_parameters['rope_type']!r}: LocalEngine needs a fixed one")
    if config.hidden_act != "silu":
        raise ValueError(f"hidden_act {config.hidden_act!r}: LocalEngine knows 'silu'")


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin
