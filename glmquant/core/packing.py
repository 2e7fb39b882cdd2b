"""Bit packing: one primitive, and the two layouts built on it.

Shape suffixes: N output rows, K input columns, G groups along K, B blocks along K.

GPTQ on disk (AutoGPTQ and its successors, ``checkpoint_format: gptq`` and ``gptq_v2``):

    qweight  int32 [K * bits / 32, N]   codes along K, the first in the lowest bits
    qzeros   int32 [G, N * bits / 32]   zero points along N, the first in the lowest bits

ONNX Runtime ``com.microsoft.MatMulNBits`` and ``GatherBlockQuantized``:

    B            uint8 [N, blocks, block_size * bits / 8]   the first code in the lowest bits
    zero_points  uint8 [N, ceil(blocks * bits / 8)]         each row padded to a byte
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from glmquant.core.parallel import over_strips
from glmquant.errors import QuantizationError


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes ``[..., C]`` to bytes ``[..., C * bits / 8]``, the first code in the lowest bits."""
    if bits == 8:
        return codes.contiguous()
    per_byte = 8 // bits
    if codes.shape[-1] % per_byte:
        raise QuantizationError(f"{codes.shape[-1]} codes of {bits} bits do not fill whole bytes")
    if bits == 4:
        pairs = _flat(codes, torch.int16)  # the second code lies in the high byte
        return (pairs | (pairs >> 4)).to(torch.uint8).view(*codes.shape[:-1], codes.shape[-1] // 2)
    grouped = codes.unflatten(-1, (-1, per_byte))
    packed: Tensor = grouped[..., 0].clone()
    for i in range(1, per_byte):
        packed |= grouped[..., i] << (bits * i)
    return packed


def unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """The inverse of :func:`pack_bits`."""
    if bits == 8:
        return packed.contiguous()
    if bits == 4:
        pairs = _flat(packed, torch.uint8).short()
        codes = ((pairs << 4) | pairs).bitwise_and_(0x0F0F).view(torch.uint8)
        return codes.view(*packed.shape[:-1], 2 * packed.shape[-1])
    mask = 2**bits - 1
    return torch.stack([(packed >> shift) & mask for shift in range(0, 8, bits)], dim=-1).flatten(-2)


def to_int32_words(codes_RC: Tensor, bits: int) -> Tensor:
    """uint8 ``[R, C]`` to little-endian int32 ``[R, C * bits / 32]``."""
    if codes_RC.shape[1] * bits % 32:
        raise QuantizationError(
            f"{codes_RC.shape[1]} codes of {bits} bits do not fill whole 32-bit words",
            expected=f"a multiple of {32 // bits}",
        )
    return _reinterpret(pack_bits(codes_RC, bits), torch.int32)


def from_int32_words(words_RW: Tensor, bits: int) -> Tensor:
    """The inverse of :func:`to_int32_words`."""
    return unpack_bits(_reinterpret(words_RW, torch.uint8), bits)


def _reinterpret(matrix_RC: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes of a matrix, row by row, as another dtype."""
    rows, columns = matrix_RC.shape
    return _flat(matrix_RC, dtype).view(rows, columns * matrix_RC.dtype.itemsize // dtype.itemsize)


def _flat(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor's bytes, in order, as ``[elements]`` of another dtype."""
    # A single row or column counts as contiguous with strides that a change of dtype refuses.
    flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
    if flat.storage_offset() * flat.dtype.itemsize % dtype.itemsize:
        flat = flat.clone()
    return flat.view(dtype)


def pack_blocks(codes_NK: Tensor, bits: int, block_size: int, padding: int) -> Tensor:
    """Codes in ONNX Runtime's layout ``[N, blocks, block_size * bits / 8]``, a ragged tail filled with ``padding``."""
    rows, columns = codes_NK.shape
    blocks = -(-columns // block_size)
    missing = blocks * block_size - columns
    packed_NBC = torch.empty(rows, blocks, block_size * bits // 8, dtype=torch.uint8)

    def fill(part: slice) -> None:
        strip_NK = pad(codes_NK[part], (0, missing), value=padding) if missing else codes_NK[part]
        packed_NBC[part] = pack_bits(strip_NK, bits).view(-1, *packed_NBC.shape[1:])

    over_strips(fill, rows, columns)
    return packed_NBC


def pack_zero_points(zeros_NB: Tensor, bits: int) -> Tensor:
    """Zero points in ONNX Runtime's layout ``[N, ceil(blocks * bits / 8)]``."""
    per_byte = 8 // bits
    return pack_bits(pad(zeros_NB, (0, -zeros_NB.shape[1] % per_byte)), bits)
