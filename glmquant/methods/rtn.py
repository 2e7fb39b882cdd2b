"""Round to nearest."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import LayerStats
from glmquant.methods.grid import encode, range_grid


@dataclass(frozen=True)
class Rtn:
    """Round to nearest (RTN) on each group's full range. Needs no data."""

    kind: ClassVar[str] = "rtn"
    needs_hessian: ClassVar[bool] = False

    def quantize(self, weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor:
        """See :class:`glmquant.methods.base.Method`; ``stats`` are not looked at."""

        def rounded(rows_NK: Tensor) -> QuantTensor:
            return encode(rows_NK, *range_grid(rows_NK, spec), spec)

        return QuantTensor.from_strips(weight_NK, spec, rounded)
