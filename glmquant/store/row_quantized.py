"""A linear that its publisher quantized row by row (ChatGLM2-6B-int4 and its like), still in a file."""

from dataclasses import dataclass
from typing import Literal

from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.errors import CheckpointError
from glmquant.glm.layouts.row_quantized import read_rows
from glmquant.store.tensors import StoredTensor


@dataclass(frozen=True)
class RowQuantizedLinear:
    """``weight`` is int8 ``[N, K * bits / 8]``, ``scales`` float ``[N]``; both are checked, neither is read yet."""

    weight: StoredTensor
    scales: StoredTensor
    bits: Literal[4, 8]

    @property
    def spec(self) -> QuantSpec:
        return QuantSpec(self.bits, WHOLE_ROW, symmetric=True)

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        return (self.weight, self.scales)

    def read(self, start: int, stop: int) -> QuantTensor:
        """Rows ``[start, stop)``, their codes and scales as published.

        Raises:
            CheckpointError: scales that are negative or not finite.
        """
        try:
            return read_rows(self.weight.read((start, stop)), self.scales.read((start, stop)), self.bits)
        except CheckpointError as error:
            if error.where == self.scales.path:
                raise
            raise CheckpointError(
                f"{self.scales.name}: {error.what}", where=self.scales.path, hint=error.hint
            ) from error
