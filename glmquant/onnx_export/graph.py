"""The model as an ONNX graph, in the operators of a profile.

Shape suffixes: B batch, S new tokens, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx_ir as ir

from glmquant.glm.config import GlmConfig
from glmquant.onnx_export.builder import IR_VERSION, GraphBuilder
from glmquant.onnx_export.bundle import TensorInfo
from glmquant.onnx_export.expert_matrices import StoredExperts
from glmquant.onnx_export.weights import StoredLinear, StoredMatrix, StoredModel, StoredPart

KEEP = "num_logits_to_keep"


@dataclass(frozen=True, eq=False)
class Decoder:
    """A graph, the inputs that must be fed, and its outputs."""

    graph: ir.Graph
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class CacheType:
    """A key/value cache ``[batch, heads, length, width]`` of one dtype."""

    dtype: ir.DataType
    width: int


Heads = ir.Value | tuple[ir.Value, ir.Value, ir.Value]
"""Queries, keys and values, in one value or in three."""


class Operators(Protocol):
    """What the decoder is made of, in a profile's operators; each method adds nodes to ``g``."""

    g: GraphBuilder
    cache: CacheType
    config: GlmConfig

    def start(self, input_ids_BS: ir.Value, mask_BT: ir.Value) -> ir.Value:
        """Whatever all layers need of the step; gives the ids ``[B, S]`` in the order the layers see them."""
        ...

    def embed(self, table: StoredMatrix, ids_BS: ir.Value) -> ir.Value: ...

    def linear(self, x: ir.Value, layer: StoredLinear) -> ir.Value: ...

    def norm(self, x_BSD: ir.Value, gain_D: ir.ExternalTensor, epsilon: float | None = None) -> ir.Value:
        """By the model's own epsilon where none is given."""
        ...

    def split(self, x: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """Along the last dimension."""
        ...

    def norm_heads(self, x: ir.Value, gain_E: ir.ExternalTensor) -> ir.Value:
        """Each head of ``[B, S, heads * E]`` by itself."""
        ...

    def shared_key(self, key_BSR: ir.Value, keys: ir.Value, heads: int) -> ir.Value:
        """Heads ``[B, S, heads * E]``: in each what is shared by all, then its own of ``keys``."""
        ...

    def experts(self, x_BSD: ir.Value, experts: StoredExperts) -> ir.Value:
        """What routed experts add to each token."""
        ...

    def add_and_norm(
        self, x_BSD: ir.Value, residual_BSD: ir.Value, gain_D: ir.ExternalTensor
    ) -> tuple[ir.Value, ir.Value]:
        """The norm of the sum, and the sum."""
        ...

    def attention(
        self, heads: Heads, past: tuple[ir.Value, ir.Value], layer: int
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The context, and keys and values with the new ones added. Queries and keys are not rotated yet."""
        ...

    def swiglu(self, gate_up: ir.Value) -> ir.Value: ...

    def kept(self, x_BSD: ir.Value, keep_1: ir.Value) -> ir.Value:
        """The last ``keep`` places of each row as it was fed, all of them where ``keep`` is 0."""
        ...

    def last_real(self, x_BSD: ir.Value) -> ir.Value:
        """Each row's last real token, ``[B, 1, D]``."""
        ...


def build_graph(
    config: GlmConfig, weights: StoredModel, operators: Operators, *, dtype: ir.DataType, last_only: bool = False
) -> Decoder:
    """The decoder with its cache.

    Inputs: ``input_ids`` and ``attention_mask``, int64; ``past_key_values.{i}.key`` and ``.value``. Outputs: ``logits``
    of ``dtype``; ``present.{i}.key`` and ``.value``.

    Args:
        last_only: logits of each row's last real token alone, ``[B, 1, V]``. Otherwise there is an optional input
            ``num_logits_to_keep``, int64 [1]: logits of each row's last so many columns, or of all (0, the default).
    """
    return DecoderBuilder(config, weights, operators).build(dtype, last_only)


@dataclass(frozen=True, eq=False)
class GraphContext:
    """What a part's nodes may need beside its input.

    Attributes:
        past: keys and values of the layer so far.
        present: gets each layer's keys and values with the new ones added.
        carried: what later linear layers of the part read, by names of the part's own.
    """

    layer: int
    past: tuple[ir.Value, ir.Value]
    present: list[tuple[ir.Value, ir.Value]]
    carried: dict[str, ir.Value] = field(default_factory=dict)


Selection = Callable[[ir.Value], ir.Value]
"""From states of all new tokens, ``[B, S, D]``, to those that are wanted, ``[B, kept, D]``."""


class DecoderBuilder:
    """Puts a model's layers together."""

    def __init__(self, config: GlmConfig, weights: StoredModel, operators: Operators) -> None:
        self._config = config
        self._weights = weights
        self._operators = operators
        self._g = operators.g

    def build(self, dtype: ir.DataType, last_only: bool) -> Decoder:
        g, config, ops = self._g, self._config, self._operators
        input_ids_BS = g.input("input_ids", ir.DataType.INT64, ["batch_size", "sequence_length"])
        mask_BT = g.input("attention_mask", ir.DataType.INT64, ["batch_size", "total_sequence_length"])
        past = [self._past(layer) for layer in range(config.num_hidden_layers)]
        keep_1 = None if last_only else g.optional_input(KEEP, np.zeros(1, np.int64))

        def select(x_BSD: ir.Value) -> ir.Value:
            return ops.last_real(x_BSD) if keep_1 is None else ops.kept(x_BSD, keep_1)

        normed_BKD, present = self.layers(input_ids_BS, mask_BT, past, select)
        g.scope("lm_head")
        logits = ops.linear(normed_BKD, self._weights.lm_head)

        g.output(logits, "logits", dtype, ["batch_size", 1 if last_only else "sequence_length", config.vocab_size])
        for layer, cache in enumerate(present):
            for value, part in zip(cache, ("key", "value"), strict=True):
                shape = self._cache_shape("total_sequence_length")
                g.output(value, f"present.{layer}.{part}", ops.cache.dtype, shape)
        return Decoder(g.graph, tuple(g.fed_inputs), tuple(g.outputs))

    def layers(
        self,
        input_ids_BS: ir.Value,
        mask_BT: ir.Value,
        past: Sequence[tuple[ir.Value, ir.Value]],
        select: Selection,
    ) -> tuple[ir.Value, list[tuple[ir.Value, ir.Value]]]:
        """Hidden states behind the last norm of what ``select`` takes, and each layer's keys and values.

        The last layer's attention needs every token; what follows it is computed for the selected ones alone.
        """
        g, ops = self._g, self._operators
        g.scope("rows")
        ids_BS = ops.start(input_ids_BS, mask_BT)
        g.scope("embed_tokens")
        x_BSD = ops.embed(self._weights.embedding, ids_BS)
        normed_BSD = ops.norm(x_BSD, self._weights.blocks[0][0].input_gain)
        present: list[tuple[ir.Value, ir.Value]] = []
        gains = self._following_gains()
        for layer, block in enumerate(self._weights.blocks):
            g.scope(f"layers.{layer}")
            context = GraphContext(layer, past[layer], present)
            is_last = layer == self._config.num_hidden_layers - 1
            for part in block:
                output, x_BSD = self._part(part, normed_BSD, x_BSD, context, select if is_last else None)
                normed_BSD, x_BSD = ops.add_and_norm(self._norm_or_pass(output, part.output_gain), x_BSD, next(gains))
        return normed_BSD, present

    def _part(
        self, part: StoredPart, x: ir.Value, residual_BSD: ir.Value, context: GraphContext, select: Selection | None
    ) -> tuple[ir.Value, ir.Value]:
        """What a part adds to the residual stream, and that stream; both of the selected tokens alone, if any."""
        layers = list(part.linears.values())
        routed = None if part.experts is None else self._operators.experts(x, part.experts)
        for step, layer in enumerate(layers):
            x = self._operators.linear(x, layer)
            if step + 1 < len(layers):
                x = part.kind.graph(step, x, part, self._operators, context)
                if select is not None and step == part.kind.mixes_tokens_after:
                    x, residual_BSD = select(x), select(residual_BSD)
        return x if routed is None else self._g.node("Add", [x, routed]), residual_BSD

    def _following_gains(self) -> Iterator[ir.ExternalTensor]:
        """For each part, the gain of the norm that reads what comes out of it."""
        parts = [part for block in self._weights.blocks for part in block]
        return iter([*(part.input_gain for part in parts[1:]), self._weights.final_norm])

    def _norm_or_pass(self, x_BSD: ir.Value, gain: ir.ExternalTensor | None) -> ir.Value:
        return x_BSD if gain is None else self._operators.norm(x_BSD, gain)

    def _past(self, layer: int) -> tuple[ir.Value, ir.Value]:
        shape = self._cache_shape("past_sequence_length")
        dtype = self._operators.cache.dtype
        key, value = (self._g.input(f"past_key_values.{layer}.{part}", dtype, shape) for part in ("key", "value"))
        return key, value

    def _cache_shape(self, length: str) -> list[int | str]:
        return ["batch_size", self._config.num_key_value_heads, length, self._operators.cache.width]


def to_bytes(graph: ir.Graph, metadata: dict[str, str]) -> bytes:
    """The contents of an ONNX file, the same every time."""
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="glmquant", metadata_props=metadata)
    data: bytes = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    return data
