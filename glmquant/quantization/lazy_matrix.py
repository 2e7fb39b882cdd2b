"""A matrix quantized as its rows are asked for; all at once, by a method that does not take each row by itself.

Quantizing rows, measuring how far off they are, and what becomes of them (a file's bytes, say) can then follow each
other while they are in the processor's caches, and a whole matrix of codes need never be in memory.

Shape suffixes: N output rows, K input columns.
"""

from threading import Lock

import torch
from torch import Tensor

from glmquant.core.parallel import one_thread, over_strips, strip_rows
from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.methods.base import Method, takes_rows
from glmquant.methods.promise import quantized as quantized_by

Squares = dict[int, tuple[float, float]]
"""``‖W - Q‖²`` and ``‖W‖²`` of strips of a matrix, by their first rows."""


class LazyMatrix:
    """A :class:`glmquant.core.qtensor.QuantMatrix` whose rows are quantized on demand, each once.

    Args:
        weight_NK: float.
        method: one that needs no Hessian. What it does not take row by row is quantized when a row is first asked for.
        squares: gets :func:`square_sums` of each strip. The same strips are made however many rows are asked for at
            once, if these are whole strips of the matrix (:func:`glmquant.core.parallel.strip_rows`).
    """

    _whole: QuantTensor | None

    def __init__(self, weight_NK: Tensor, spec: QuantSpec, method: Method, squares: Squares) -> None:
        self._weight_NK, self._spec, self._method, self._squares = weight_NK, spec, method, squares
        self._by_rows, self._whole, self._making = takes_rows(method), None, Lock()

    @property
    def spec(self) -> QuantSpec:
        return self._spec

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self._weight_NK.shape
        return rows, columns

    @torch.inference_mode()
    def rows(self, start: int, stop: int) -> QuantTensor:
        columns = self.shape[1]
        if not self._by_rows:
            return self._all().rows(start, stop)
        if stop - start <= strip_rows(columns):
            with one_thread():
                return self._strip(start, stop)
        whole = QuantTensor.unfilled(stop - start, columns, self._spec, self._weight_NK.device)

        def fill(part: slice) -> None:
            whole.fill(part, self._strip(start + part.start, start + part.stop))

        over_strips(fill, stop - start, columns, self._weight_NK.device)
        return whole

    def _strip(self, start: int, stop: int) -> QuantTensor:
        rows_NK = self._weight_NK[start:stop].float()
        quantized = quantized_by(self._method, rows_NK, self._spec, None)
        self._squares[start] = square_sums(rows_NK, quantized)
        return quantized

    def _all(self) -> QuantTensor:
        """Every row, by one thread wherever it is asked for first."""
        with self._making, one_thread():
            if self._whole is None:
                self._whole = self._strip(0, len(self._weight_NK))
            return self._whole


def square_sums(rows_NK: Tensor, quantized: QuantTensor) -> tuple[float, float]:
    """``‖W - Q‖²`` and ``‖W‖²`` of float32 rows."""
    return _square_sum(quantized.dequantize().sub_(rows_NK)), _square_sum(rows_NK)


def relative(squares: Squares) -> float:
    """``‖W - Q‖² / ‖W‖²`` of the matrix."""
    part, whole = (sum(each) for each in zip(*(squares[start] for start in sorted(squares)), strict=True))
    return ratio(part, whole)


def ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _square_sum(x: Tensor) -> float:
    flat = x.flatten()
    return float(torch.dot(flat, flat))
