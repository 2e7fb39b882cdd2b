"""The weights of a model, written to the bundle's external data tensor by tensor.

Shape suffixes: N output rows, K input columns, V vocabulary, D hidden size, P part of a dimension, L positions,
C key/value heads, E head size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor

from glmquant.core.spec import QuantSpec
from glmquant.data.calibration import KeyValueRange
from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.linear import Linear
from glmquant.glm.model import ModelSource
from glmquant.glm.parts import Part, PartKind
from glmquant.glm.rotary import rotary
from glmquant.onnx_export.expert_matrices import StoredExperts, write_experts
from glmquant.onnx_export.matrices import BlockedMatrix, IntegerMatrix, MatrixWriter, PackedMatrix, cast, piece_rows
from glmquant.onnx_export.weights_file import WeightsFile
from glmquant.streaming.prefetch import blocks_ahead

CLIP_RATIOS = {8: 1.0, 4: 0.8}
"""How much of a channel's range the codes of a quantized cache cover; what lies beyond is clipped. With 15 codes, finer
steps are worth it: a fifth off brings INT4 half as far from the float cache's perplexity (results/kv_cache.md)."""

StoredMatrix = PackedMatrix | BlockedMatrix | IntegerMatrix | ir.ExternalTensor


@dataclass(frozen=True, eq=False)
class StoredLinear:
    """``weight`` is quantized, or a float handle ``[K, N]`` for ``x @ weight``; ``bias`` ``[N]``.

    ``order``, int32 ``[K]``, is which input each column of a quantized weight meets; None where each meets its own.
    """

    name: str
    weight: StoredMatrix
    bias: ir.ExternalTensor | None
    order: ir.ExternalTensor | None = None


@dataclass(frozen=True, eq=False)
class StoredPart:
    """A :class:`glmquant.glm.parts.Part` as handles: linear layers and norm gains by the same names."""

    kind: PartKind
    linears: dict[str, StoredLinear]
    gains: dict[str, ir.ExternalTensor]
    experts: StoredExperts | None = None

    @property
    def input_gain(self) -> ir.ExternalTensor:
        return self.gains[self.kind.input_norm]

    @property
    def output_gain(self) -> ir.ExternalTensor | None:
        return self.gains.get(self.kind.output_norm)


StoredBlock = tuple[StoredPart, ...]


@dataclass(frozen=True, eq=False)
class StoredScales:
    """Of a layer's quantized cache: float32 ``[1, C, 1, E]``."""

    key: ir.ExternalTensor
    value: ir.ExternalTensor


@dataclass(frozen=True, eq=False)
class StoredModel:
    """Handles of every tensor of the model.

    ``cos_cache`` and ``sin_cache`` are ``[L, rotary_dim / 2]``; ``cache_scales`` are empty where the cache is float.
    """

    embedding: StoredMatrix
    cos_cache: ir.ExternalTensor
    sin_cache: ir.ExternalTensor
    blocks: tuple[StoredBlock, ...]
    final_norm: ir.ExternalTensor
    lm_head: StoredLinear
    cache_scales: tuple[StoredScales, ...] = ()


class WeightWriter:
    """Converts tensors to a bundle's dtype and layouts and writes them.

    Raises (from every method):
        ExportError: a value that ``dtype`` cannot hold.
    """

    def __init__(self, file: WeightsFile, dtype: torch.dtype, matrices: MatrixWriter) -> None:
        self._file = file
        self._dtype = dtype
        self._matrices = matrices

    def float_tensor(self, name: str, tensor: Tensor) -> ir.ExternalTensor:
        return self._file.add(name, cast(name, tensor, self._dtype))

    def linear(self, name: str, layer: Linear) -> StoredLinear:
        weight: StoredMatrix
        if isinstance(layer.weight, Tensor):
            weight = self._transposed(f"{name}.weight", layer.weight)
        else:
            weight = self._matrices.linear(f"{name}.weight", layer.weight)
        bias = None if layer.bias_N is None else self.float_tensor(f"{name}.bias", layer.bias_N)
        order = None if layer.order_K is None else self._file.add(f"{name}.order", layer.order_K.int())
        return StoredLinear(name, weight, bias, order)

    def block(self, layer: int, block: Block, config: GlmConfig) -> StoredBlock:
        """The parts one after the other, then the norms behind their outputs."""
        parts = [self._part(layer, part, config) for part in block.parts]
        for stored, part in zip(parts, block.parts, strict=True):
            if part.has_output_norm:
                name = part.kind.output_norm
                stored.gains[name] = self.float_tensor(f"layers.{layer}.{name}.weight", part.gains[name])
        return tuple(parts)

    def _part(self, layer: int, part: Part, config: GlmConfig) -> StoredPart:
        gains = {name: gain for name, gain in part.gains.items() if name != part.kind.output_norm}
        stored_gains = {n: self.float_tensor(f"layers.{layer}.{n}.weight", gain) for n, gain in gains.items()}
        scope = f"layers.{layer}.{part.kind.scope}"
        exported = {name: part.kind.exported(name, linear, config) for name, linear in part.linears.items()}
        linears = {name: self.linear(f"{scope}.{name}", linear) for name, linear in exported.items()}
        experts = None if part.experts is None else write_experts(self._file, scope, part.experts, self._dtype)
        return StoredPart(part.kind, linears, stored_gains, experts)

    def embedding(self, weight_VD: Tensor, spec: QuantSpec | None) -> StoredMatrix:
        """Float, or rounded to nearest with ``spec``, some rows at a time."""
        name = "embed_tokens.weight"
        if spec is not None:
            return self._matrices.embedding(name, weight_VD, spec)
        rows = (cast(name, piece, self._dtype) for piece in weight_VD.split(piece_rows(weight_VD.shape[1])))
        return self._file.add_pieces(name, self._dtype, tuple(weight_VD.shape), rows)

    def rotary_caches(self, config: GlmConfig, length: int) -> tuple[ir.ExternalTensor, ir.ExternalTensor]:
        rope = rotary(config, torch.arange(length).unsqueeze(0))
        return self.float_tensor("cos_cache", rope.cos_BTR[0]), self.float_tensor("sin_cache", rope.sin_BTR[0])

    def cache_scales(self, layer: int, seen: KeyValueRange, bits: int) -> StoredScales:
        """Scales that map ``CLIP_RATIOS`` of the largest key and value of each channel to the largest code."""
        largest = 2 ** (bits - 1) - 1

        def scales(part: str, absmax_CE: Tensor) -> ir.ExternalTensor:
            scale_CE = (CLIP_RATIOS[bits] * absmax_CE.float() / largest).clamp(min=torch.finfo(torch.float16).tiny)
            return self._file.add(f"layers.{layer}.self_attn.{part}_cache_scale", scale_CE[None, :, None, :])

        return StoredScales(scales("key", seen.key_absmax_CE), scales("value", seen.value_absmax_CE))

    def _transposed(self, name: str, weight_NK: Tensor) -> ir.ExternalTensor:
        rows, columns = weight_NK.shape
        pieces = (cast(name, piece_NP.T, self._dtype) for piece_NP in weight_NK.split(piece_rows(rows), dim=1))
        return self._file.add_pieces(name, self._dtype, (columns, rows), pieces)


def store_model(
    source: ModelSource,
    writer: WeightWriter,
    *,
    embedding: QuantSpec | None,
    length: int,
    key_values: Sequence[KeyValueRange] = (),
    cache_bits: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> StoredModel:
    """Writes every tensor of a model, holding one part of it and the next at a time: embedding, a block, or head.

    Args:
        embedding: how to quantize the token embedding; None keeps it float.
        length: positions the rotary caches cover.
        key_values: ranges of each layer's keys and values, where the cache is quantized.
        cache_bits: of a quantized cache.
        progress: called with blocks done and blocks in all.
    """
    config = source.config
    layers = config.num_hidden_layers
    blocks = []
    for number, part in blocks_ahead(partial(_part, source), range(-1, layers + 1)):
        if isinstance(part, Tensor):
            stored_embedding = writer.embedding(part, embedding)
            cos_cache, sin_cache = writer.rotary_caches(config, length)
        elif isinstance(part, Block):
            blocks.append(writer.block(number, part, config))
            if progress is not None:
                progress(number + 1, layers)
        else:
            final_norm = writer.float_tensor("norm.weight", source.final_norm())
            head = writer.linear("score" if config.num_labels else "lm_head", part)
        del part
    return StoredModel(
        stored_embedding,
        cos_cache,
        sin_cache,
        tuple(blocks),
        final_norm,
        head,
        tuple(writer.cache_scales(layer, seen, cache_bits) for layer, seen in enumerate(key_values)),
    )


def _part(source: ModelSource, number: int) -> Tensor | Block | Linear:
    """The embedding before the blocks, the head after them."""
    if number < 0:
        return source.embedding()
    return source.block(number) if number < source.config.num_hidden_layers else source.head()
