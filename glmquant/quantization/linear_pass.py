"""One linear layer by its plan, and what that cost.

Shape suffixes: N output rows, K input columns.
"""

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

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
        errors = [
            _errors(weight_NK[start : start + ROWS_AT_ONCE], quantized.rows(start, start + ROWS_AT_ONCE), stats, dtype)
            for start in range(0, len(weight_NK), ROWS_AT_ONCE)
        ]
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
