"""A quantized weight matrix and its law.

Shape suffixes: N output rows, K input columns, G groups along K, W group width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from glmquant.core.parallel import over_strips, strip_rows
from glmquant.core.spec import QuantSpec
from glmquant.errors import QuantizationError

SMALLEST_SCALE = 2.0**-24  # the smallest positive float16


@dataclass(frozen=True, eq=False)
class QuantTensor:
    """Codes with a scale and a zero point per group: ``W_NK ≈ (codes_NK - zeros_NG) * scales_NG``.

    Attributes:
        codes_NK: uint8, each at most ``spec.max_code``.
        scales_NG: float32 holding values float16 can hold, so that what is written is what was computed.
        zeros_NG: uint8; ``spec.middle`` everywhere when ``spec.symmetric``.
        spec: bits, grouping, symmetry.

    Raises:
        QuantizationError: shapes or dtypes that break the law above.
    """

    codes_NK: Tensor
    scales_NG: Tensor
    zeros_NG: Tensor
    spec: QuantSpec

    def __post_init__(self) -> None:
        rows, columns = self.codes_NK.shape
        grouped = (rows, self.spec.num_groups(columns))
        dtypes = (self.codes_NK.dtype, self.scales_NG.dtype, self.zeros_NG.dtype)
        if dtypes != (torch.uint8, torch.float32, torch.uint8):
            raise QuantizationError(f"a quantized tensor has dtypes {dtypes}", expected="uint8, float32, uint8")
        if tuple(self.scales_NG.shape) != grouped or tuple(self.zeros_NG.shape) != grouped:
            raise QuantizationError(
                f"scales {tuple(self.scales_NG.shape)} and zeros {tuple(self.zeros_NG.shape)} do not fit codes "
                f"{(rows, columns)}",
                expected=f"both {grouped}",
            )

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.codes_NK.shape
        return rows, columns

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights the codes stand for, ``[N, K]``."""
        rows, columns = self.shape

        def values(part: slice) -> Tensor:
            groups_NGW = in_groups(self.codes_NK[part], self.spec).float()
            groups_NGW.sub_(self.zeros_NG[part].unsqueeze(-1)).mul_(self.scales_NG[part].unsqueeze(-1))
            return groups_NGW.flatten(1)[:, :columns]

        if rows <= strip_rows(columns):
            return values(slice(0, rows)).to(dtype)
        out_NK = torch.empty(rows, columns, dtype=dtype, device=self.codes_NK.device)

        def fill(part: slice) -> None:
            out_NK[part] = values(part)

        over_strips(fill, rows, columns, out_NK.device)
        return out_NK

    def to(self, device: torch.device) -> "QuantTensor":
        """The same tensor on a device."""
        return QuantTensor(self.codes_NK.to(device), self.scales_NG.to(device), self.zeros_NG.to(device), self.spec)

    def rows(self, start: int, stop: int) -> "QuantTensor":
        return QuantTensor(self.codes_NK[start:stop], self.scales_NG[start:stop], self.zeros_NG[start:stop], self.spec)

    def take(self, order_N: Tensor) -> "QuantTensor":
        """The rows of these numbers."""
        return QuantTensor(self.codes_NK[order_N], self.scales_NG[order_N], self.zeros_NG[order_N], self.spec)

    @staticmethod
    def joined(parts: "Sequence[QuantTensor]") -> "QuantTensor":
        """One below the other; of one spec."""
        return QuantTensor(
            torch.cat([part.codes_NK for part in parts]),
            torch.cat([part.scales_NG for part in parts]),
            torch.cat([part.zeros_NG for part in parts]),
            parts[0].spec,
        )

    @staticmethod
    def unfilled(rows: int, columns: int, spec: QuantSpec, device: torch.device) -> "QuantTensor":
        """To be given its values by :meth:`fill`."""
        grouped = (rows, spec.num_groups(columns))
        return QuantTensor(
            torch.empty(rows, columns, dtype=torch.uint8, device=device),
            torch.empty(grouped, device=device),
            torch.empty(grouped, dtype=torch.uint8, device=device),
            spec,
        )

    def fill(self, part: slice, rows: "QuantTensor") -> None:
        """Takes the values of ``rows`` for its own rows ``part``."""
        self.codes_NK[part] = rows.codes_NK
        self.scales_NG[part] = rows.scales_NG
        self.zeros_NG[part] = rows.zeros_NG

    @staticmethod
    def from_strips(weight_NK: Tensor, spec: QuantSpec, quantized: "Callable[[Tensor], QuantTensor]") -> "QuantTensor":
        """Of ``quantized`` for each strip of rows, in float32."""
        rows, columns = weight_NK.shape
        if rows <= strip_rows(columns):
            return quantized(weight_NK.float())
        whole = QuantTensor.unfilled(rows, columns, spec, weight_NK.device)

        def fill(part: slice) -> None:
            whole.fill(part, quantized(weight_NK[part].float()))

        over_strips(fill, rows, columns, weight_NK.device)
        return whole

    @staticmethod
    def stack(parts: "list[QuantTensor]") -> "QuantTensor":
        """Rows of several tensors of one spec, one below the other; a single one as it is."""
        if len(parts) == 1:
            return parts[0]
        specs = {part.spec for part in parts}
        if len(specs) != 1:
            raise QuantizationError(f"cannot stack tensors of different specs {specs}")
        return QuantTensor(
            torch.cat([part.codes_NK for part in parts]),
            torch.cat([part.scales_NG for part in parts]),
            torch.cat([part.zeros_NG for part in parts]),
            parts[0].spec,
        )


class QuantMatrix(Protocol):
    """What has quantized rows to give: a :class:`QuantTensor`, or a matrix quantized as its rows are asked for."""

    @property
    def spec(self) -> QuantSpec: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    def rows(self, start: int, stop: int) -> QuantTensor: ...


def in_groups(x_NK: Tensor, spec: QuantSpec) -> Tensor:
    """``[N, K]`` as ``[N, G, W]``; a ragged last group is filled with zeros."""
    columns = x_NK.shape[1]
    missing = spec.num_groups(columns) * spec.width(columns) - columns
    padded_NK: Tensor = pad(x_NK, (0, missing)) if missing else x_NK
    groups_NGW: Tensor = padded_NK.unflatten(1, (spec.num_groups(columns), -1))
    return groups_NGW


def spread(values_NG: Tensor, width: int, columns: int) -> Tensor:
    """Repeats each group's value over its columns: ``[N, G]`` to ``[N, columns]``."""
    if width == 1:
        return values_NG[:, :columns]
    return values_NG.repeat_interleave(width, dim=1)[:, :columns]


def storable(scales: Tensor) -> Tensor:
    """Scales rounded to float16, kept as float32; never zero.

    Raises:
        QuantizationError: a scale beyond float16.
    """
    rounded = scales.clamp(min=SMALLEST_SCALE).half().float()
    if not torch.isfinite(rounded).all():
        raise QuantizationError(
            f"a scale of {scales.max().item():.3g} overflows float16",
            expected="scales of at most 65504",
            hint="the checkpoint's weights are far too large to be real; see whether they are the publisher's, and "
            "download them again",
        )
    return rounded
