"""Weights in the layouts the operators want, written to the bundle's external data.

Shape suffixes: N output rows, K input columns, G groups along K, B blocks along K, C bytes of a block, V vocabulary,
D hidden size, P part of a dimension, L positions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from glmquant.core.packing import pack_bits, pack_blocks, pack_zero_points
from glmquant.core.qtensor import QuantTensor, spread
from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.errors import ExportError
from glmquant.export.source import ModelSource
from glmquant.export.weights_file import WeightsFile
from glmquant.glm.block import Block, Linear, rotary
from glmquant.glm.config import GlmConfig
from glmquant.methods.rtn import Rtn

WIDEST_BLOCK = 256  # the widest block right at every bit width in ONNX Runtime's CPU kernels
COMMON_BLOCK = 128  # the fastest; wider groups repeat their scale over blocks of this size
PIECE_ELEMENTS = 16 * 2**20  # of a large matrix converted at once


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A block-quantised matrix ``[N, K]``: handles of its tensors, and the operators' attributes."""

    codes: ir.ExternalTensor
    scales: ir.ExternalTensor
    zero_points: ir.ExternalTensor | None
    rows: int
    columns: int
    bits: int
    block_size: int


@dataclass(frozen=True, eq=False)
class StoredLinear:
    """``weight`` is packed, or a float handle ``[K, N]`` for ``x @ weight``; ``bias`` ``[N]``."""

    name: str
    weight: PackedMatrix | ir.ExternalTensor
    bias: ir.ExternalTensor | None


@dataclass(frozen=True, eq=False)
class StoredBlock:
    input_layernorm: ir.ExternalTensor
    qkv_proj: StoredLinear
    o_proj: StoredLinear
    post_attention_layernorm: ir.ExternalTensor
    gate_up_proj: StoredLinear
    down_proj: StoredLinear
    post_self_attn_layernorm: ir.ExternalTensor | None
    post_mlp_layernorm: ir.ExternalTensor | None


@dataclass(frozen=True, eq=False)
class StoredModel:
    """Handles of every tensor of the model. ``cos_cache`` and ``sin_cache`` are ``[L, rotary_dim / 2]``."""

    embedding: PackedMatrix | ir.ExternalTensor
    cos_cache: ir.ExternalTensor
    sin_cache: ir.ExternalTensor
    blocks: tuple[StoredBlock, ...]
    final_norm: ir.ExternalTensor
    lm_head: StoredLinear


class WeightWriter:
    """Converts tensors to a bundle's dtype and layouts and writes them.

    Raises (from every method):
        ExportError: a value that ``dtype`` cannot hold.
    """

    def __init__(self, file: WeightsFile, dtype: torch.dtype) -> None:
        self._file = file
        self._dtype = dtype

    def float_tensor(self, name: str, tensor: Tensor) -> ir.ExternalTensor:
        return self._file.add(name, self._cast(name, tensor))

    def linear(self, name: str, layer: Linear) -> StoredLinear:
        weight: PackedMatrix | ir.ExternalTensor
        if isinstance(layer.weight, QuantTensor):
            weight = self._packed_linear(f"{name}.weight", layer.weight)
        else:
            weight = self._transposed(f"{name}.weight", layer.weight)
        bias = None if layer.bias_N is None else self.float_tensor(f"{name}.bias", layer.bias_N)
        return StoredLinear(name, weight, bias)

    def block(self, layer: int, block: Block) -> StoredBlock:
        name = f"layers.{layer}"

        def norm(part: str, gain: Tensor) -> ir.ExternalTensor:
            return self.float_tensor(f"{name}.{part}.weight", gain)

        after_attention, after_mlp = block.post_self_attn_layernorm, block.post_mlp_layernorm
        return StoredBlock(
            input_layernorm=norm("input_layernorm", block.input_layernorm),
            qkv_proj=self.linear(f"{name}.self_attn.qkv_proj", block.qkv_proj),
            o_proj=self.linear(f"{name}.self_attn.o_proj", block.o_proj),
            post_attention_layernorm=norm("post_attention_layernorm", block.post_attention_layernorm),
            gate_up_proj=self.linear(f"{name}.mlp.gate_up_proj", block.gate_up_proj),
            down_proj=self.linear(f"{name}.mlp.down_proj", block.down_proj),
            post_self_attn_layernorm=None
            if after_attention is None
            else norm("post_self_attn_layernorm", after_attention),
            post_mlp_layernorm=None if after_mlp is None else norm("post_mlp_layernorm", after_mlp),
        )

    def embedding(self, weight_VD: Tensor, spec: QuantSpec | None) -> PackedMatrix | ir.ExternalTensor:
        """Float, or rounded to nearest with ``spec``, some rows at a time."""
        name = "embed_tokens.weight"
        if spec is None:
            rows = (self._cast(name, piece) for piece in weight_VD.split(_piece_rows(weight_VD.shape[1])))
            return self._file.add_pieces(name, self._dtype, tuple(weight_VD.shape), rows)
        return self._packed_embedding(name, weight_VD, spec)

    def rotary_caches(self, config: GlmConfig, length: int) -> tuple[ir.ExternalTensor, ir.ExternalTensor]:
        rope = rotary(config, torch.arange(length).unsqueeze(0))
        return self.float_tensor("cos_cache", rope.cos_BTR[0]), self.float_tensor("sin_cache", rope.sin_BTR[0])

    def _cast(self, name: str, tensor: Tensor) -> Tensor:
        cast = tensor.to(self._dtype)
        if not torch.isfinite(cast).all():
            raise ExportError(
                f"tensor {name} holds {tensor.abs().max().item():.6g}, which {self._dtype} cannot hold",
                where=name,
                expected=f"finite values of at most {torch.finfo(self._dtype).max:.6g}",
                fix="export with export.dtype=float32; if it is not finite there either, the checkpoint is damaged",
            )
        return cast

    def _transposed(self, name: str, weight_NK: Tensor) -> ir.ExternalTensor:
        rows, columns = weight_NK.shape
        pieces = (self._cast(name, piece_NP.T) for piece_NP in weight_NK.split(_piece_rows(rows), dim=1))
        return self._file.add_pieces(name, self._dtype, (columns, rows), pieces)

    def _packed_linear(self, name: str, weight: QuantTensor) -> PackedMatrix:
        spec, (rows, columns) = weight.spec, weight.shape
        size = block_size(spec)
        codes_NBC = pack_blocks(weight.codes_NK, spec.bits, size, spec.middle)
        scales_NB = per_block(weight.scales_NG, spec, columns)
        zeros_NB = None if spec.symmetric else per_block(weight.zeros_NG, spec, columns)
        return PackedMatrix(
            self._file.add(name, codes_NBC),
            self._file.add(f"{name}_scales", self._cast(f"{name}_scales", scales_NB)),
            None if zeros_NB is None else self._file.add(f"{name}_zeros", pack_zero_points(zeros_NB, spec.bits)),
            rows,
            columns,
            spec.bits,
            size,
        )

    def _packed_embedding(self, name: str, weight_VD: Tensor, spec: QuantSpec) -> PackedMatrix:
        rows, columns = weight_VD.shape
        size = block_size(spec)
        scales: list[Tensor] = []
        zeros: list[Tensor] = []

        def packed_pieces() -> Iterator[Tensor]:
            for piece_PD in weight_VD.split(_piece_rows(columns)):
                quantised = Rtn().quantize(piece_PD, spec, None)
                scales.append(per_block(quantised.scales_NG, spec, columns))
                zeros.append(pack_zero_points(per_block(quantised.zeros_NG, spec, columns), spec.bits))
                yield pack_bits(quantised.codes_NK, spec.bits)

        shape = (rows, -(-columns * spec.bits // 8))
        codes = self._file.add_pieces(name, torch.uint8, shape, packed_pieces())
        return PackedMatrix(
            codes,
            self._file.add(f"{name}_scales", self._cast(f"{name}_scales", torch.cat(scales))),
            None if spec.symmetric else self._file.add(f"{name}_zeros", torch.cat(zeros)),
            rows,
            columns,
            spec.bits,
            size,
        )


def store_model(
    source: ModelSource,
    writer: WeightWriter,
    *,
    embedding: QuantSpec | None,
    length: int,
    progress: Callable[[int, int], None] | None = None,
) -> StoredModel:
    """Writes every tensor of a model, holding one block of it at a time.

    Args:
        embedding: how to quantise the token embedding; None keeps it float.
        length: positions the rotary caches cover.
        progress: called with blocks done and blocks in all.
    """
    config = source.config
    stored_embedding = writer.embedding(source.embedding(), embedding)
    cos_cache, sin_cache = writer.rotary_caches(config, length)
    blocks = []
    for layer in range(config.num_hidden_layers):
        blocks.append(writer.block(layer, source.block(layer)))
        if progress is not None:
            progress(layer + 1, config.num_hidden_layers)
    return StoredModel(
        stored_embedding,
        cos_cache,
        sin_cache,
        tuple(blocks),
        writer.float_tensor("norm.weight", source.final_norm()),
        writer.linear("lm_head", source.lm_head()),
    )


def block_size(spec: QuantSpec) -> int:
    """The operator's block for a spec's groups: the group itself, or a part of one that is too wide."""
    return COMMON_BLOCK if spec.group_size == WHOLE_ROW or spec.group_size > WIDEST_BLOCK else spec.group_size


def per_block(values_NG: Tensor, spec: QuantSpec, columns: int) -> Tensor:
    """Each group's value, once for every block of the group: ``[N, B]``."""
    size = block_size(spec)
    return spread(values_NG, -(-spec.width(columns) // size), -(-columns // size)).contiguous()


def _piece_rows(columns: int) -> int:
    return max(1, PIECE_ELEMENTS // columns)
