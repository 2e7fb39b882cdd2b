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
    """Plain round to nearest on each group's full range. Needs no data."""

    kind: ClassVar[str] = "rtn"
    needs_hessian: ClassVar[bool] = False

    def quantize(self, weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor:
        weight_NK = weight_NK.float()
        return encode(weight_NK, *range_grid(weight_NK, spec), spec)
