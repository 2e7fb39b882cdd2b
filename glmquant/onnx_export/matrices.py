"""Quantized matrices in the layouts the operators want.

Shape suffixes: N output rows, K input columns, G groups along K, B blocks along K, C bytes of a block, V vocabulary,
D hidden size, P part of a dimension.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir
import torch
from torch import Tensor

from glmquant.core.packing import pack_bits, pack_blocks, pack_zero_points
from glmquant.core.parallel import over_strips, strip_rows
from glmquant.core.qtensor import QuantMatrix, QuantTensor, spread
from glmquant.core.spec import QuantSpec
from glmquant.errors import ExportError
from glmquant.methods.rtn import Rtn
from glmquant.onnx_export.blocks import block_size
from glmquant.onnx_export.feasible import require_integer, require_standard
from glmquant.onnx_export.weights_file import WeightsFile
from glmquant.recipe.schema import ExportOptions

PIECE_ELEMENTS = 8 * 2**20
"""Of a large matrix converted at once. The C library keeps the memory of pieces this small for the next one; that of
larger ones goes back to the system, and a new page costs more than what is written to it."""


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix ``[N, K]`` as ``MatMulNBits`` and ``GatherBlockQuantized`` take it: handles, and their attributes."""

    codes: ir.ExternalTensor
    scales: ir.ExternalTensor
    zero_points: ir.ExternalTensor | None
    rows: int
    columns: int
    bits: int
    block_size: int


@dataclass(frozen=True, eq=False)
class BlockedMatrix:
    """A matrix as ``DequantizeLinear`` takes it, blocked along ``axis``.

    Codes of a linear are ``[K, N]`` and those of an embedding ``[V, D]``; scales and zero points have a row or a column
    for each block. Symmetric codes are signed and need no zero points.
    """

    codes: ir.ExternalTensor
    scales: ir.ExternalTensor
    zero_points: ir.ExternalTensor | None
    axis: int
    block_size: int


@dataclass(frozen=True, eq=False)
class IntegerMatrix:
    """A matrix for products of integers: symmetric codes int8 ``[K, N]``, and a scale for each row, float32 ``[N]``."""

    codes: ir.ExternalTensor
    scales: ir.ExternalTensor


class MatrixWriter(Protocol):
    """Writes quantized matrices in a profile's layout."""

    def linear(self, name: str, weight: QuantMatrix) -> PackedMatrix | BlockedMatrix | IntegerMatrix: ...

    def embedding(self, name: str, weight_VD: Tensor, spec: QuantSpec) -> PackedMatrix | BlockedMatrix:
        """Rounded to nearest with ``spec``, some rows at a time."""
        ...


class PackedWriter:
    """For the ``ort`` profile."""

    def __init__(self, file: WeightsFile, dtype: torch.dtype) -> None:
        self._file = file
        self._dtype = dtype

    def linear(self, name: str, weight: QuantMatrix) -> PackedMatrix:
        spec, (rows, columns) = weight.spec, weight.shape
        size = block_size(spec, columns)

        def packed(codes_PK: Tensor) -> Tensor:
            return pack_blocks(codes_PK, spec.bits, size, spec.middle)

        return self._matrix(name, weight, packed, (rows, -(-columns // size), size * spec.bits // 8))

    def embedding(self, name: str, weight_VD: Tensor, spec: QuantSpec) -> PackedMatrix:
        rows, columns = weight_VD.shape

        def packed(codes_PD: Tensor) -> Tensor:
            return pack_bits(codes_PD, spec.bits)

        return self._matrix(name, _Rounded(weight_VD, spec), packed, (rows, -(-columns * spec.bits // 8)))

    def _matrix(
        self, name: str, weight: QuantMatrix, pack: Callable[[Tensor], Tensor], shape: tuple[int, ...]
    ) -> PackedMatrix:
        """Strips of rows are asked for, packed and cast where they are; codes go to the file some strips at a time.

        Args:
            pack: codes of some rows to the bytes of these rows.
            shape: of all bytes.
        """
        spec, (rows, columns) = weight.spec, weight.shape
        size = block_size(spec, columns)
        blocks = -(-columns // size)
        scales_NB = torch.empty(rows, blocks, dtype=self._dtype)
        zeros_NB = None if spec.symmetric else torch.empty(rows, -(-blocks * spec.bits // 8), dtype=torch.uint8)

        def pieces() -> Iterator[Tensor]:
            for piece in row_pieces(rows, columns):
                packed = torch.empty(piece.stop - piece.start, *shape[1:], dtype=torch.uint8)

                def fill(part: slice, first: int = piece.start, packed: Tensor = packed) -> None:
                    whole = slice(first + part.start, first + part.stop)
                    strip = weight.rows(whole.start, whole.stop)
                    packed[part] = pack(strip.codes_NK)
                    scales_NB[whole] = cast(f"{name}_scales", per_block(strip.scales_NG, spec, columns), self._dtype)
                    if zeros_NB is not None:
                        zeros_NB[whole] = pack_zero_points(per_block(strip.zeros_NG, spec, columns), spec.bits)

                over_strips(fill, len(packed), columns)
                yield packed

        return PackedMatrix(
            self._file.add_pieces(name, torch.uint8, shape, pieces()),
            self._file.add(f"{name}_scales", scales_NB),
            None if zeros_NB is None else self._file.add(f"{name}_zeros", zeros_NB),
            rows,
            columns,
            spec.bits,
            size,
        )


class IntegerWriter:
    """For the ``ort`` profile with ``dynamic_int8``: 8-bit linear layers for products of integers, all else packed.

    Raises (from ``linear``):
        ExportError: 8-bit codes whose scale or zero point is not the same along a whole row.
    """

    def __init__(self, file: WeightsFile, dtype: torch.dtype) -> None:
        self._file = file
        self._packed = PackedWriter(file, dtype)

    def embedding(self, name: str, weight_VD: Tensor, spec: QuantSpec) -> PackedMatrix:
        return self._packed.embedding(name, weight_VD, spec)

    def linear(self, name: str, weight: QuantMatrix) -> PackedMatrix | IntegerMatrix:
        spec, (rows, columns) = weight.spec, weight.shape
        if spec.bits != 8:
            return self._packed.linear(name, weight)
        require_integer(name, spec, columns)
        whole = weight.rows(0, rows)
        scales_N = whole.scales_NG[:, 0].float()
        return IntegerMatrix(
            self._file.add(name, _signed(whole.codes_NK.T, spec).contiguous()),
            self._file.add(f"{name}_scales", scales_N.contiguous()),
        )


class BlockedWriter:
    """For the ``standard`` profile: 4 and 8 bits.

    Raises (from every method):
        ExportError: 2 bits, which opset 23 has no type for.
    """

    def __init__(self, file: WeightsFile, dtype: torch.dtype) -> None:
        self._file = file
        self._dtype = dtype

    def linear(self, name: str, weight: QuantMatrix) -> BlockedMatrix:
        spec, (rows, columns) = weight.spec, weight.shape
        require_standard(name, spec)
        whole = weight.rows(0, rows)
        scales_BN = per_block(whole.scales_NG, spec, columns).T
        zeros_BN = None if spec.symmetric else per_block(whole.zeros_NG, spec, columns).T
        return BlockedMatrix(
            self._codes(name, whole.codes_NK.T, spec),
            self._file.add(f"{name}_scales", cast(f"{name}_scales", scales_BN, self._dtype)),
            None if zeros_BN is None else self._codes(f"{name}_zeros", zeros_BN, spec),
            axis=0,
            block_size=block_size(spec, columns),
        )

    def embedding(self, name: str, weight_VD: Tensor, spec: QuantSpec) -> BlockedMatrix:
        if spec.bits != 8:
            raise ExportError(f"an embedding of {spec.bits} bits", where=name, expected="8 bits in profile standard")
        columns = weight_VD.shape[1]
        scales: list[Tensor] = []
        zeros: list[Tensor] = []

        def pieces() -> Iterator[Tensor]:
            for quantized in rounded_pieces(weight_VD, spec):
                scales.append(per_block(quantized.scales_NG, spec, columns))
                zeros.append(per_block(quantized.zeros_NG, spec, columns))
                yield _signed(quantized.codes_NK, spec)

        dtype = torch.int8 if spec.symmetric else torch.uint8
        codes = self._file.add_pieces(name, dtype, tuple(weight_VD.shape), pieces())
        return BlockedMatrix(
            codes,
            self._file.add(f"{name}_scales", cast(f"{name}_scales", torch.cat(scales), self._dtype)),
            None if spec.symmetric else self._file.add(f"{name}_zeros", torch.cat(zeros)),
            axis=1,
            block_size=block_size(spec, columns),
        )

    def _codes(self, name: str, codes: Tensor, spec: QuantSpec) -> ir.ExternalTensor:
        if spec.bits == 8:
            return self._file.add(name, _signed(codes, spec))
        # Two to a byte through the whole tensor, the first low. A signed nibble is the unsigned one with its top bit
        # turned: subtracting 8 modulo 16.
        flat = codes.flatten() ^ 8 if spec.symmetric else codes.flatten()
        if len(flat) % 2:
            flat = torch.cat([flat, flat.new_zeros(1)])
        dtype = ir.DataType.INT4 if spec.symmetric else ir.DataType.UINT4
        return self._file.add_packed(name, pack_bits(flat, 4), dtype, tuple(codes.shape))


def matrix_writer(file: WeightsFile, dtype: torch.dtype, options: ExportOptions) -> MatrixWriter:
    """The one of a profile."""
    if options.profile == "standard":
        return BlockedWriter(file, dtype)
    return IntegerWriter(file, dtype) if options.dynamic_int8 else PackedWriter(file, dtype)


def _signed(codes: Tensor, spec: QuantSpec) -> Tensor:
    """Symmetric 8-bit codes as int8, others as they are."""
    return (codes ^ 128).view(torch.int8) if spec.symmetric else codes


def rounded_pieces(weight_VD: Tensor, spec: QuantSpec) -> Iterator[QuantTensor]:
    rows, columns = weight_VD.shape
    for piece in row_pieces(rows, columns):
        yield Rtn().quantize(weight_VD[piece], spec, None)


@dataclass(frozen=True, eq=False)
class _Rounded:
    """A :class:`glmquant.core.qtensor.QuantMatrix` of float rows, rounded to nearest as they are asked for."""

    weight_NK: Tensor
    spec: QuantSpec

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.weight_NK.shape
        return rows, columns

    def rows(self, start: int, stop: int) -> QuantTensor:
        return Rtn().quantize(self.weight_NK[start:stop], self.spec, None)


def row_pieces(rows: int, columns: int) -> Iterator[slice]:
    """Parts of a matrix to be converted at once: some whole strips each."""
    step = strip_rows(columns) * max(1, piece_rows(columns) // strip_rows(columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Raises ExportError for a value that ``dtype`` cannot hold."""
    converted = tensor.to(dtype)
    if not torch.isfinite(converted).all():
        raise ExportError(
            f"tensor {name} holds {tensor.abs().max().item():.6g}, which {dtype} cannot hold",
            where=name,
            expected=f"finite values of at most {torch.finfo(dtype).max:.6g}",
            hint="export with export.dtype=float32; if it is not finite there either, the checkpoint is damaged",
        )
    return converted


def per_block(values_NG: Tensor, spec: QuantSpec, columns: int) -> Tensor:
    """Each group's value, once for every block of the group: ``[N, B]``."""
    size = block_size(spec, columns)
    return spread(values_NG, -(-spec.width(columns) // size), -(-columns // size)).contiguous()


def piece_rows(columns: int) -> int:
    return max(1, PIECE_ELEMENTS // columns)
