"""One linear layer by its plan, and what that cost.

Shape suffixes: N output rows, K input columns.
"""

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.parallel import over_strips
from glmquant.core.qtensor import QuantTensor
from glmquant.core.ranks import ALONE, Ranks
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import LayerStats, mean_square_output
from glmquant.errors import QuantizationError
from glmquant.glm.linear import Linear
from glmquant.methods.base import Method, takes_rows
from glmquant.methods.promise import quantized as quantized_by
from glmquant.quantization.error_propagation import SHARED_ROWS, LinearFit
from glmquant.quantization.lazy_matrix import LazyMatrix, Squares, ratio, relative, square_sums
from glmquant.recipe.plan import GroupPlan
from glmquant.store.manifest import GroupRecord


@dataclass(frozen=True)
class GroupOutcome:
    """What quantizing one linear group cost.

    Attributes:
        weight_error: ``‖W - Q‖² / ‖W‖²``, with ``W`` as it was to be quantized; None where the group is kept.
        output_error: ``E‖(W - Q) x‖² / E‖W x‖²`` over the calibration inputs; None where none were gathered.
        seconds: that the method and these errors took, whatever the number of samples.
        few_tokens: of routed experts, the numbers of those that hardly a calibration token reached.
    """

    name: str
    plan: GroupPlan
    weight_error: float | None = None
    output_error: float | None = None
    seconds: float = 0.0
    few_tokens: tuple[int, ...] = ()

    @property
    def record(self) -> GroupRecord:
        """What an artifact's manifest says of it."""
        kind = None if self.plan.method is None else self.plan.method.kind
        return GroupRecord(self.name, self.plan.spec, kind, self.weight_error, self.output_error, self.few_tokens)


def quantize_linear(
    name: str,
    linear: Linear,
    plan: GroupPlan,
    seen: LinearFit | None,
    dtype: torch.dtype = torch.float32,
    ranks: Ranks = ALONE,
) -> tuple[Linear, GroupOutcome]:
    """The linear layer by its plan.

    Args:
        seen: what this layer is to be fitted to, where the plan's method needs it.
        dtype: of the products behind the outcome.
        ranks: who shares the rows of a layer that is fitted; all get the whole of it.
    """
    if plan.spec is None or plan.method is None:
        return linear, GroupOutcome(name, plan)
    weight_NK = require_float(name, linear)
    started = time.monotonic()
    if seen is None:
        squares: Squares = {}
        quantized = LazyMatrix(weight_NK, plan.spec, plan.method, squares).rows(0, len(weight_NK))
        outcome = GroupOutcome(name, plan, relative(squares))
    else:
        quantized, errors = _shared(plan.method, plan.spec, weight_NK, seen, dtype, ranks)
        outcome = _outcome(name, plan, errors)
    return replace(linear, weight=quantized), replace(outcome, seconds=time.monotonic() - started)


def require_float(name: str, linear: Linear) -> Tensor:
    """The linear layer's weight ``[N, K]``.

    Raises:
        QuantizationError: it is quantized already.
    """
    if not isinstance(linear.weight, Tensor):
        raise QuantizationError(
            "the linear layer is quantized already",
            where=name,
            expected="a float checkpoint",
            hint="start from the original",
        )
    return linear.weight


@dataclass(frozen=True)
class _Errors:
    """Of some rows: ``‖W - Q‖²``, ``‖W‖²``, ``E‖(W - Q) x‖²`` and ``E‖W x‖²``."""

    lost: float
    whole: float
    lost_output: float
    whole_output: float


def _shared(
    method: Method, spec: QuantSpec, weight_NK: Tensor, seen: LinearFit, dtype: torch.dtype, ranks: Ranks
) -> tuple[QuantTensor, list[_Errors]]:
    """Each rank quantizes a run of slices of the rows, if the method takes rows one by one; else each all of them."""
    if not takes_rows(method):
        ranks = ALONE
    starts = ranks.run_of(range(0, len(weight_NK), SHARED_ROWS))
    if not starts:
        seen.result(weight_NK, slice(0, 0))  # the sums are everybody's
        return _joined(ranks.gather((None, [])), weight_NK.device)
    rows_NK, stats = seen.result(weight_NK, slice(starts[0], starts[-1] + SHARED_ROWS))
    quantized = quantized_by(method, rows_NK, spec, stats)
    parts = [slice(start - starts[0], start - starts[0] + SHARED_ROWS) for start in starts]
    errors = [_errors(rows_NK[part], quantized.rows(part.start, part.stop), stats, dtype) for part in parts]
    if ranks.count == 1:
        return quantized, errors
    return _joined(ranks.gather((quantized.to(CPU), errors)), weight_NK.device)


def _joined(
    parts: list[tuple[QuantTensor | None, list[_Errors]]], device: torch.device
) -> tuple[QuantTensor, list[_Errors]]:
    quantized = [of_rank for of_rank, _ in parts if of_rank is not None]
    return QuantTensor.joined(quantized).to(device), [error for _, errors in parts for error in errors]


def _errors(weight_NK: Tensor, quantized: QuantTensor, stats: LayerStats, dtype: torch.dtype) -> _Errors:
    def squares(part: slice) -> tuple[float, float]:
        return square_sums(weight_NK[part].float(), quantized.rows(part.start, part.stop))

    rows, columns = weight_NK.shape
    lost, whole = (sum(each) for each in zip(*over_strips(squares, rows, columns, weight_NK.device), strict=True))
    weight_NK = weight_NK.float()
    whole_output = mean_square_output(weight_NK, stats, dtype)
    lost_NK = quantized.dequantize().sub_(weight_NK)
    return _Errors(lost, whole, mean_square_output(lost_NK, stats, dtype), whole_output)


def _outcome(name: str, plan: GroupPlan, errors: Sequence[_Errors]) -> GroupOutcome:
    """Of all rows, added in their order."""
    lost, whole, lost_output, whole_output = (sum(each) for each in zip(*map(astuple, errors), strict=True))
    return GroupOutcome(name, plan, ratio(lost, whole), ratio(lost_output, whole_output))
