"""How finely a weight matrix is quantized."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from glmquant.core.untrusted import shown
from glmquant.errors import RecipeError

WHOLE_ROW = -1
WIDEST_GROUP = 1 << 24
"""As many weights as no row of a GLM has."""


@dataclass(frozen=True)
class QuantSpec:
    """Bits, grouping and symmetry of a quantized weight ``W_NK``.

    Attributes:
        bits: 2, 4 or 8.
        group_size: consecutive weights along K that share a scale; a power of two of at least 16, or -1 for
            the whole row. The last group of a row may be shorter.
        symmetric: the zero point is ``2 ** (bits - 1)`` everywhere.

    Raises:
        RecipeError: a value outside these ranges.
    """

    bits: Annotated[
        int, Field(description="Bits of each quantized weight.", json_schema_extra={"enum": [2, 4, 8], "unit": "bits"})
    ] = 4
    group_size: Annotated[
        int,
        Field(
            description="Group size: consecutive weights of a row that share a scale and a zero point. A power of two "
            "of at least 16, or -1 for the whole row. The last group of a row may be shorter.",
            json_schema_extra={"unit": "weights"},
        ),
    ] = 128
    symmetric: Annotated[
        bool,
        Field(
            description="Whether every zero point is the middle code, `2 ** (bits - 1)`; else each group has its own."
        ),
    ] = True

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8):
            raise RecipeError(f"bits is {shown(self.bits)}", where="spec.bits", expected="2, 4 or 8")
        size = self.group_size
        if size != WHOLE_ROW and (not 16 <= size <= WIDEST_GROUP or size & (size - 1)):
            raise RecipeError(
                f"group_size is {shown(size)}",
                where="spec.group_size",
                expected="a power of two of at least 16, or -1 for whole rows",
            )

    @property
    def max_code(self) -> int:
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric tensor."""
        return 1 << (self.bits - 1)

    def width(self, columns: int) -> int:
        """Weights a group spans in a row of ``columns``: no more than there are, whatever a file says."""
        return columns if self.group_size == WHOLE_ROW else min(self.group_size, columns)

    def num_groups(self, columns: int) -> int:
        return -(-columns // self.width(columns))

    def stored_bytes(self, rows: int, columns: int) -> int:
        """Codes, float16 scales and, for asymmetric specs, packed zero points."""
        groups = rows * self.num_groups(columns)
        zeros = 0 if self.symmetric else groups * self.bits // 8
        return rows * columns * self.bits // 8 + 2 * groups + zeros
