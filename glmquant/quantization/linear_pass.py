"""One linear layer by its plan, and what that cost.

Shape suffixes: N output rows, K input columns.
"""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glmquant.core.parallel import over_strips
from glmquant.core.qtensor import QuantTensor
from glmquant.core.stats import LayerStats, mean_square_output
from glmquant.errors import QuantizationError
from glmquant.glm.linear import Linear
from glmquant.quantization.error_propagation import LinearFit
from glmquant.quantization.lazy_matrix import LazyMatrix, Squares, ratio, relative, square_sums
from glmquant.recipe.plan import GroupPlan
from glmquant.store.manifest import GroupRecord

ROWS_AT_ONCE = 2048


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
) -> tuple[Linear, GroupOutcome]:
    """The linear layer by its plan.

    Args:
        seen: what this layer is to be fitted to, where the plan's method needs it.
        dtype: of the products behind the outcome.
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
        weight_NK, stats = seen.result(weight_NK)
        quantized = plan.method.quantize(weight_NK, plan.spec, stats)
        outcome = _measure(name, plan, weight_NK, quantized, stats, dtype)
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


def _measure(
    name: str, plan: GroupPlan, weight_NK: Tensor, quantized: QuantTensor, stats: LayerStats, dtype: torch.dtype
) -> GroupOutcome:
    def squares(part: slice) -> tuple[int, tuple[float, float]]:
        return part.start, square_sums(weight_NK[part].float(), quantized.rows(part.start, part.stop))

    rows, columns = weight_NK.shape
    weight_error = relative(dict(over_strips(squares, rows, columns, weight_NK.device)))
    lost_output = whole_output = 0.0
    for start in range(0, rows, ROWS_AT_ONCE):
        rows_NK = weight_NK[start : start + ROWS_AT_ONCE].float()
        whole_output += mean_square_output(rows_NK, stats, dtype)
        lost_NK = quantized.rows(start, start + len(rows_NK)).dequantize().sub_(rows_NK)
        lost_output += mean_square_output(lost_NK, stats, dtype)
    return GroupOutcome(name, plan, weight_error, ratio(lost_output, whole_output))
