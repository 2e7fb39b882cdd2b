"""What each program wrote: the weights it stands for, and the bits that it really takes.

Of other programs' files the blocks' linear layers are taken, in the place of the float checkpoint's; the rest of the
model stays as it was, so that a peer is not charged for the dtype of its embedding.

Shape suffixes: N output rows, K input columns, B blocks along K.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from benchmarks.accuracy import three_bits
from glmquant.core.packing import unpack_bits
from glmquant.core.qtensor import QuantTensor, spread
from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.groups import block_groups
from glmquant.glm.linear import Linear
from glmquant.glm.model import ModelSource
from glmquant.glm.names import layer_prefix
from glmquant.store.checkpoint import CONFIG, Checkpoint, open_checkpoint
from glmquant.store.gptq_config import SECTION

FLOAT_BITS = 16
INDEX_BITS = 32


@dataclass(frozen=True, eq=False)
class Stored:
    """A linear's weight ``[N, K]``, and the bits it takes on disk, scales and zero points included."""

    weight_NK: Tensor
    bits: int


StoredBlock = tuple[Stored, ...]
"""The linear layers of a block, as data flows through them: qkv, o, gate and up, down."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model to evaluate, and its average bits over the weights of the blocks' linears."""

    source: ModelSource
    average_bits: float


def read_ours(checkpoint: Checkpoint, path: Path) -> Candidate:
    """The whole artifact: a transform may have changed more than the linears."""
    artifact = open_checkpoint(path)
    return Candidate(artifact, _average_bits(checkpoint.config, lambda layer: _from_block(artifact.block(layer))))


def read_gptq(checkpoint: Checkpoint, path: Path) -> Candidate:
    if json.loads((path / CONFIG).read_text())[SECTION]["bits"] == three_bits.BITS:
        return _candidate(checkpoint, _three_bit_blocks(checkpoint.config, path))
    artifact = open_checkpoint(path)
    return _candidate(checkpoint, lambda layer: _from_block(artifact.block(layer)))


def read_gguf(checkpoint: Checkpoint, path: Path) -> Candidate:
    """Rows are in our order: the twin is written without the permutation of rotary pairs."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}

    def stored(layer: int, *names: str) -> Stored:
        parts = [tensors[f"blk.{layer}.{name}.weight"] for name in names]
        weights = [torch.from_numpy(gguf.dequantize(part.data, part.tensor_type)) for part in parts]
        return Stored(torch.cat(weights).float(), 8 * sum(int(part.n_bytes) for part in parts))

    def block(layer: int) -> StoredBlock:
        qkv = stored(layer, "attn_q", "attn_k", "attn_v")
        gate_up = stored(layer, "ffn_gate", "ffn_up")
        return qkv, stored(layer, "attn_output"), gate_up, stored(layer, "ffn_down")

    return _candidate(checkpoint, block)


def read_onnx(checkpoint: Checkpoint, path: Path) -> Candidate:
    """A graph of ``MatMulNBits``, one a linear. Its scales are float32, but counted with 16 bits: a float16 graph's."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {node.input[0].removesuffix(".x"): _from_matmul(node, arrays) for node in graph.node}

    def joined(layer: int, *names: str) -> Stored:
        parts = [found[f"{layer_prefix(layer)}{name}.weight"] for name in names]
        return Stored(torch.cat([part.weight_NK for part in parts]), sum(part.bits for part in parts))

    def block(layer: int) -> StoredBlock:
        qkv = joined(layer, *(f"self_attn.{part}_proj" for part in "qkv"))
        o, gate_up = joined(layer, "self_attn.o_proj"), joined(layer, "mlp.gate_up_proj")
        return qkv, o, gate_up, joined(layer, "mlp.down_proj")

    return _candidate(checkpoint, block)


READERS: dict[str, Callable[[Checkpoint, Path], Candidate]] = {
    "glmquant": read_ours,
    "gptqmodel": read_gptq,
    "autoround": read_gptq,
    "llama": read_gguf,
    "onnxruntime": read_onnx,
}


@dataclass(frozen=True, eq=False)
class _Replaced:
    """A checkpoint with other weights in its blocks' linears; a ``ModelSource``."""

    checkpoint: Checkpoint
    stored: Callable[[int], StoredBlock]

    @property
    def config(self) -> GlmConfig:
        return self.checkpoint.config

    def block(self, layer: int) -> Block:
        block = self.checkpoint.block(layer)
        pairs = zip(block.linears().items(), self.stored(layer), strict=True)
        return block.with_linears({name: Linear(found.weight_NK, linear.bias_N) for (name, linear), found in pairs})

    def embedding(self) -> Tensor:
        return self.checkpoint.embedding()

    def final_norm(self) -> Tensor:
        return self.checkpoint.final_norm()

    def head(self) -> Linear:
        return self.checkpoint.head()


def _candidate(checkpoint: Checkpoint, stored: Callable[[int], StoredBlock]) -> Candidate:
    return Candidate(_Replaced(checkpoint, stored), _average_bits(checkpoint.config, stored))


def _average_bits(config: GlmConfig, stored: Callable[[int], StoredBlock]) -> float:
    bits = weights = 0
    for layer in range(config.num_hidden_layers):
        for linear in stored(layer):
            bits += linear.bits
            weights += linear.weight_NK.numel()
    return bits / weights


def _from_block(block: Block) -> StoredBlock:
    return tuple(Stored(linear.dense(), _bits(linear)) for linear in block.linears().values())


def _three_bit_blocks(config: GlmConfig, path: Path) -> Callable[[int], StoredBlock]:
    file = three_bits.ThreeBitFile(path)

    def block(layer: int) -> StoredBlock:
        groups = []
        for group in block_groups(config, layer):
            parts = [part for member in group.members for part in file.linears(member)]
            groups.append(Stored(torch.cat([part.dense() for part in parts]), sum(part.bits for part in parts)))
        return tuple(groups)

    return block


def _bits(linear: Linear) -> int:
    """Zero points that are all in the middle say nothing, and are not counted."""
    weight = linear.weight
    if not isinstance(weight, QuantTensor):
        return weight.numel() * FLOAT_BITS
    rows, columns = weight.shape
    order = 0 if linear.order_K is None else columns * INDEX_BITS
    return 8 * weight.spec.stored_bytes(rows, columns) + order


def _from_matmul(node: onnx.NodeProto, arrays: Mapping[str, np.ndarray]) -> Stored:
    settings = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    rows, columns, bits, width = (int(settings[name]) for name in ("N", "K", "bits", "block_size"))
    blocks = -(-columns // width)
    packed, scales, *zero_points = (torch.from_numpy(arrays[name].copy()) for name in node.input[1:])
    codes_NK = unpack_bits(packed.view(rows, -1), bits)[:, :columns]
    if zero_points:
        zeros_NB = unpack_bits(zero_points[0].view(rows, -1), bits)[:, :blocks]
    else:
        zeros_NB = torch.full((rows, blocks), 1 << (bits - 1), dtype=torch.uint8)
    scales_NB = scales.view(rows, blocks).float()
    weight_NK = (codes_NK.float() - spread(zeros_NB, width, columns)) * spread(scales_NB, width, columns)
    return Stored(weight_NK, bits * rows * columns + rows * blocks * (FLOAT_BITS + (bits if zero_points else 0)))
