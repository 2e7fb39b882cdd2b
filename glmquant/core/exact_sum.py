"""Sums of float32 matrices that are the same in any order and in any grouping.

A pass over samples adds up products ``x_i y_j`` of ``T`` tokens in *leaves*: fixed runs of them, each a float32 matrix.
Floating-point addition rounds, so that a sum of leaves would depend on which are added first, and with several
processes on how many there are. Here every leaf is rounded to a grid first, and then each addition is exact:

*Claim.* Let ``a_i ≥ |x_i|`` and ``b_j ≥ |y_j|`` for every token, ``2^e_i ≥ a_i``, ``2^f_j ≥ b_j`` and ``2^t ≥ T``. With
the unit ``u_ij = 2^(t + e_i + f_j + 1 - 53)``, sums in float64 of leaves rounded to multiples of ``u_ij`` are exact.

*Proof.* Over any set of leaves ``|Σ x_i y_j| ≤ T a_i b_j ≤ 2^(t + e_i + f_j)``. Products of operands rounded to
bfloat16 and summed in float32 exceed that by less than 2 %, rounding to the grid by half a unit a leaf, so that any
partial sum stays below ``2^(t + e_i + f_j + 1) = 2^53 u_ij``. A multiple of ``u_ij`` no larger than that is a float64,
so no addition rounds, whatever is added to what. ∎

What the grid takes away is ``2^-53`` of the bound at most; float32 keeps ``2^-24`` of a value. A column's largest input
would have to be 2^14 times its usual one for the two to meet.

Shape suffixes: N rows, K columns, P rows of a strip.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from glmquant.core.parallel import over_strips

EXACT_BITS = 53
"""Whole numbers up to 2 to this power are float64 values (IEEE 754-2019, Table 3.5)."""
FLOAT64_BIAS, FLOAT64_FRACTION_BITS = 1023, 52


@dataclass(frozen=True, eq=False)
class Grid:
    """The unit of every element of a matrix, as powers of two of rows and columns.

    Attributes:
        rows_N, columns_K: int32; element ``[i, j]`` is counted in units of ``2^(rows_N[i] + columns_K[j])``.
    """

    rows_N: Tensor
    columns_K: Tensor

    @staticmethod
    def within(rows_N: Tensor, columns_K: Tensor, tokens: int) -> "Grid":
        """For sums over ``tokens`` of products of values no larger than ``rows_N`` and ``columns_K``; float32."""
        above = (max(tokens, 1) - 1).bit_length() + 1 - EXACT_BITS
        return Grid(torch.frexp(rows_N).exponent, torch.frexp(columns_K).exponent + above)

    def part(self, rows: slice, columns: int) -> "Grid":
        """Of some rows and the first columns."""
        return Grid(self.rows_N[rows], self.columns_K[:columns])


class ExactSum:
    """A sum of leaves on a grid.

    Attributes:
        units_NK: whole numbers of units, float64; those of several sums on one grid may be added.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        rows, columns = len(grid.rows_N), len(grid.columns_K)
        self.units_NK = torch.zeros(rows, columns, dtype=torch.float64, device=grid.rows_N.device)

    def take(self, leaf_NK: Tensor) -> None:
        """Adds a leaf, float32, and leaves zeros in its place."""
        up_N1, up_K = _power(-self._grid.rows_N).unsqueeze(1), _power(-self._grid.columns_K)

        def add(part: slice) -> None:
            self.units_NK[part] += leaf_NK[part].double().mul_(up_N1[part]).mul_(up_K).round_()

        over_strips(add, *self._shape, leaf_NK.device)
        leaf_NK.zero_()

    def mean_into(self, out_NK: Tensor, count: int) -> None:
        """Writes the sum divided by ``count``, rounded once to float32."""
        down_N1, down_K = _power(self._grid.rows_N).unsqueeze(1), _power(self._grid.columns_K)

        def write(part: slice) -> None:
            out_NK[part] = self.units_NK[part].mul(down_N1[part]).mul_(down_K).div_(count)

        over_strips(write, *self._shape, out_NK.device)

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self._grid.rows_N), len(self._grid.columns_K)


def _power(exponents: Tensor) -> Tensor:
    """``2^exponents``, float64: its own exponent bits, for ``torch.ldexp`` goes by way of float32."""
    return ((exponents.long() + FLOAT64_BIAS) << FLOAT64_FRACTION_BITS).view(torch.float64)
