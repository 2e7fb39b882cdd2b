"""Routed experts in the layouts of ``MoE`` and ``QMoE`` (ContribOperators.md of onnxruntime 1.32), expert by expert.

Gate and up rows alternate, the only order that ONNX Runtime's CPU kernels take; the router's scaling is part of the
``down_proj`` weights, where it costs nothing.

Shape suffixes: X experts, N output rows, K input columns, B blocks along K, C columns or bytes of a row.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

import onnx_ir as ir
import torch
from torch import Tensor

from glmquant.core.packing import pack_bits, pack_zero_points
from glmquant.core.parallel import over_strips
from glmquant.core.qtensor import QuantMatrix, spread
from glmquant.core.spec import QuantSpec
from glmquant.errors import ExportError
from glmquant.glm.linear import Linear
from glmquant.glm.parts.routing import DOWN, EXPERT_LINEARS, GATE_UP, RoutedExperts
from glmquant.onnx_export.feasible import expert_block
from glmquant.onnx_export.matrices import cast
from glmquant.onnx_export.weights_file import WeightsFile
from glmquant.streaming.prefetch import blocks_ahead

ELEMENTS_AHEAD: Final = 24 << 20
"""Of experts that are being read, or wait, while one is written."""


@dataclass(frozen=True, eq=False)
class ExpertMatrices:
    """One linear layer of all experts: codes ``[X, N, K * bits / 8]`` with their scales, or floats ``[X, N, K]``.

    Attributes:
        codes: or the float weights themselves.
        scales: ``[X, N, B]``, or ``[X, N]`` with one scale a row; None for float weights.
        block_size: columns that share a scale; 0 for whole rows.
    """

    codes: ir.ExternalTensor
    scales: ir.ExternalTensor | None = None
    zero_points: ir.ExternalTensor | None = None
    bits: int = 0
    block_size: int = 0


@dataclass(frozen=True, eq=False)
class StoredExperts:
    """Router ``[D, X]`` and bias ``[X]``, float32; both linear layers of all experts."""

    router: ir.ExternalTensor
    bias: ir.ExternalTensor
    per_token: int
    gate_up: ExpertMatrices
    down: ExpertMatrices


def write_experts(file: WeightsFile, scope: str, experts: RoutedExperts, dtype: torch.dtype) -> StoredExperts:
    """Writes the router and every expert, some of them being read while one is in memory.

    Raises:
        ExportError: groups or an order of columns that the operator cannot take, a value that ``dtype`` cannot hold.
    """
    router = experts.router
    stored_router = file.add(f"{scope}.gate.weight", router.weight_XD.T.contiguous())
    bias = file.add(f"{scope}.gate.bias", router.bias_X)
    firsts = {name: experts.load(0, name) for name in EXPERT_LINEARS}
    size = _block(scope, firsts.values())
    coming = _matrices(experts, firsts)
    gate_up, down = (
        _write(file, f"{scope}.experts.{name}", islice(coming, experts.count), experts, name, dtype, size)
        for name in EXPERT_LINEARS
    )
    return StoredExperts(stored_router, bias, router.per_token, gate_up, down)


def _matrices(experts: RoutedExperts, firsts: dict[str, Linear]) -> Iterator[Linear]:
    """The first linear layer of every expert, then the second one; ``firsts`` are those of the first expert."""
    places = [(expert, name) for name in EXPERT_LINEARS for expert in range(experts.count)]

    def load(place: tuple[int, str]) -> Linear:
        expert, name = place
        return firsts.pop(name) if expert == 0 else experts.load(expert, name)

    rows, columns = firsts[GATE_UP].weight.shape
    for _, linear in blocks_ahead(load, places, max(1, ELEMENTS_AHEAD // (rows * columns))):
        yield linear


def _write(
    file: WeightsFile,
    name: str,
    matrices: Iterator[Linear],
    experts: RoutedExperts,
    which: str,
    dtype: torch.dtype,
    size: int,
) -> ExpertMatrices:
    first = next(matrices)
    scaling, shape = experts.router.scaling if which == DOWN else 1.0, (experts.count, *first.weight.shape)
    if isinstance(first.weight, Tensor):
        pieces = (cast(name, _placed(each.dense() * scaling, which), dtype) for each in chain([first], matrices))
        return ExpertMatrices(file.add_pieces(name, dtype, shape, pieces))
    packed = _Packed(file, name, first.weight.spec, shape, size, which)
    return packed.write(chain([first], matrices), scaling, dtype)


def _placed(rows_NC: Tensor, which: str) -> Tensor:
    """Rows where the operator wants them: gate and up rows alternate, g0, u0, g1, u1, …"""
    return rows_NC if which == DOWN else rows_NC.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)


def _block(scope: str, linears: Iterable[Linear]) -> int:
    weights = [linear.weight for linear in linears]
    matrices = [(each.spec, each.shape[1]) for each in weights if not isinstance(each, Tensor)]
    return expert_block(f"{scope}.experts", matrices)


@dataclass(frozen=True, eq=False)
class _Packed:
    """A writer of one linear layer of all experts.

    Attributes:
        shape: ``[X, N, K]``.
        size: the operator's block; 0 for whole rows.
        which: of an expert's linear layers.
    """

    file: WeightsFile
    name: str
    spec: QuantSpec
    shape: tuple[int, int, int]
    size: int
    which: str

    def write(self, matrices: Iterator[Linear], scaling: float, dtype: torch.dtype) -> ExpertMatrices:
        """Codes go to the file expert by expert, made strip by strip; scales and zero points, which are small, after
        them."""
        (count, rows, columns), bits = self.shape, self.spec.bits
        blocks = columns // self.size if self.size else 1
        scales = torch.empty(count, rows, blocks, dtype=dtype)
        zeros = None if self.spec.symmetric else torch.empty(count, rows, -(-blocks * bits // 8), dtype=torch.uint8)

        def pieces() -> Iterator[Tensor]:
            for expert, linear in enumerate(matrices):
                weight = self._quantized(linear)
                packed = torch.empty(rows, columns * bits // 8, dtype=torch.uint8)
                scales_NB = torch.empty(rows, blocks, dtype=dtype)
                zeros_NB = None if zeros is None else torch.empty(zeros.shape[1:], dtype=torch.uint8)

                def fill(
                    part: slice,
                    weight: QuantMatrix = weight,
                    packed: Tensor = packed,
                    scales_NB: Tensor = scales_NB,
                    zeros_NB: Tensor | None = zeros_NB,
                ) -> None:
                    strip = weight.rows(part.start, part.stop)
                    packed[part] = pack_bits(strip.codes_NK, bits)
                    scales_NB[part] = cast(f"{self.name}_scales", self._grouped(strip.scales_NG * scaling), dtype)
                    if zeros_NB is not None:
                        zeros_NB[part] = pack_zero_points(self._grouped(strip.zeros_NG), bits)

                over_strips(fill, rows, columns)
                scales[expert] = _placed(scales_NB, self.which)
                if zeros is not None and zeros_NB is not None:
                    zeros[expert] = _placed(zeros_NB, self.which)
                yield _placed(packed, self.which)

        codes = self.file.add_pieces(self.name, torch.uint8, (count, rows, columns * bits // 8), pieces())
        return ExpertMatrices(
            codes,
            self.file.add(f"{self.name}_scales", scales if self.size else scales[..., 0].contiguous()),
            None if zeros is None else self.file.add(f"{self.name}_zeros", zeros),
            bits,
            self.size,
        )

    def _grouped(self, values_NG: Tensor) -> Tensor:
        """A value for each block of the operator."""
        columns = self.shape[2]
        if not self.size:
            return values_NG[:, :1]
        return spread(values_NG, columns // (values_NG.shape[1] * self.size), columns // self.size).contiguous()

    def _quantized(self, linear: Linear) -> QuantMatrix:
        weight = linear.weight
        assert not isinstance(weight, Tensor), "a unit has one spec"
        if linear.order_K is not None or weight.spec.bits != self.spec.bits:
            raise ExportError(
                f"the experts of {self.name} differ in bits, or have their columns in orders of their own",
                where=self.name,
                expected="one spec for all experts of a layer, columns in the order of the inputs (QMoE)",
                hint="quantize the float model with glmquant, which writes such experts",
            )
        return weight
