"""Routed experts in the layouts of ``MoE`` and ``QMoE`` (ContribOperators.md of onnxruntime 1.32), expert by expert.

Gate and up rows alternate, the only order that ONNX Runtime's CPU kernels take; the router's scaling is part of the
``down_proj`` weights, where it costs nothing.

Shape suffixes: X experts, N output rows, K input columns, B blocks along K.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir
import torch
from torch import Tensor

from glmquant.core.packing import pack_bits, pack_zero_points
from glmquant.core.qtensor import QuantTensor, spread
from glmquant.core.spec import QuantSpec
from glmquant.errors import ExportError
from glmquant.glm.linear import Linear
from glmquant.glm.parts.routing import DOWN, EXPERT_LINEARS, RoutedExperts
from glmquant.onnx_export.feasible import expert_block
from glmquant.onnx_export.matrices import cast
from glmquant.onnx_export.weights_file import WeightsFile
from glmquant.streaming.prefetch import blocks_ahead


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
    """Writes the router and every expert, one in memory and the next being read.

    Raises:
        ExportError: groups or an order of columns that the operator cannot take, a value that ``dtype`` cannot hold.
    """
    router = experts.router
    stored_router = file.add(f"{scope}.gate.weight", router.weight_XD.T.contiguous())
    bias = file.add(f"{scope}.gate.bias", router.bias_X)
    size = _block(scope, experts)
    gate_up, down = (_write(file, f"{scope}.experts.{name}", experts, name, dtype, size) for name in EXPERT_LINEARS)
    return StoredExperts(stored_router, bias, router.per_token, gate_up, down)


def _write(
    file: WeightsFile, name: str, experts: RoutedExperts, which: str, dtype: torch.dtype, size: int
) -> ExpertMatrices:
    first = experts.load(0, which).weight
    scaling = experts.router.scaling if which == DOWN else 1.0

    def matrices() -> Iterator[Linear]:
        for _, linear in blocks_ahead(lambda expert: experts.load(expert, which), range(experts.count)):
            yield linear if which == DOWN else _alternating(linear)

    if isinstance(first, Tensor):
        shape = (experts.count, *first.shape)
        pieces = (cast(name, each.dense() * scaling, dtype) for each in matrices())
        return ExpertMatrices(file.add_pieces(name, dtype, shape, pieces))
    return _Packed(file, name, first.spec, (experts.count, *first.shape), size).write(matrices(), scaling, dtype)


def _alternating(gate_up: Linear) -> Linear:
    """Rows g0, u0, g1, u1, …"""
    rows = gate_up.weight.shape[0]
    return gate_up.reordered(torch.arange(rows).view(2, -1).T.flatten())


def _block(scope: str, experts: RoutedExperts) -> int:
    weights = [experts.load(0, name).weight for name in EXPERT_LINEARS]
    matrices = [(each.spec, each.shape[1]) for each in weights if not isinstance(each, Tensor)]
    return expert_block(f"{scope}.experts", matrices)


@dataclass(frozen=True, eq=False)
class _Packed:
    file: WeightsFile
    name: str
    spec: QuantSpec
    shape: tuple[int, int, int]
    size: int

    def write(self, matrices: Iterator[Linear], scaling: float, dtype: torch.dtype) -> ExpertMatrices:
        """Codes go to the file expert by expert; scales and zero points, which are small, after them."""
        count, rows, columns = self.shape
        scales: list[Tensor] = []
        zeros: list[Tensor] = []

        def pieces() -> Iterator[Tensor]:
            for linear in matrices:
                weight = self._whole(linear)
                scales.append(cast(f"{self.name}_scales", self._grouped(weight.scales_NG * scaling), dtype))
                if not self.spec.symmetric:
                    zeros.append(pack_zero_points(self._grouped(weight.zeros_NG).view(rows, -1), self.spec.bits))
                yield pack_bits(weight.codes_NK, self.spec.bits)

        packed = (count, rows, columns * self.spec.bits // 8)
        return ExpertMatrices(
            self.file.add_pieces(self.name, torch.uint8, packed, pieces()),
            self.file.add(f"{self.name}_scales", torch.stack(scales)),
            self.file.add(f"{self.name}_zeros", torch.stack(zeros)) if zeros else None,
            self.spec.bits,
            self.size,
        )

    def _grouped(self, values_NG: Tensor) -> Tensor:
        columns = self.shape[2]
        if not self.size:
            return values_NG[:, 0].contiguous()
        return spread(values_NG, columns // (values_NG.shape[1] * self.size), columns // self.size).contiguous()

    def _whole(self, linear: Linear) -> QuantTensor:
        weight = linear.weight
        assert not isinstance(weight, Tensor), "a unit has one spec"
        if linear.order_K is not None or weight.spec.bits != self.spec.bits:
            raise ExportError(
                f"the experts of {self.name} differ in bits, or have their columns in orders of their own",
                where=self.name,
                expected="one spec for all experts of a layer, columns in the order of the inputs (QMoE)",
                hint="quantize the float model with glmquant, which writes such experts",
            )
        return replace(weight.rows(0, weight.shape[0]), spec=self.spec)
