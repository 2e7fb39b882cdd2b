"""GPTQ on disk: one linear at a time, between :class:`QuantTensor` and the four tensors that AutoGPTQ, GPTQModel and
AutoRound write (AutoGPTQ ``nn_modules/qlinear``, GPTQModel ``FORMAT.GPTQ`` and ``FORMAT.GPTQ_V2``):

    qweight  int32   [K * bits / 32, N]   codes along K, the first in the lowest bits
    qzeros   int32   [G, N * bits / 32]   zero points along N, the first in the lowest bits
    scales   float16 [G, N]
    g_idx    int32   [K]                  the group of each column

``gptq`` (v1) stores each zero point less one, wrapped within its own bits, and readers add one the same way;
``gptq_v2`` stores zero points as they are.

Bits and group size are read from the shapes themselves, so a module that ``dynamic`` gives other bits needs no regular
expression of a stranger's run. Symmetric is what has every zero point in the middle, whatever a file says of itself.

With ``desc_act`` the columns of a group lie anywhere in the row (``g_idx``). They are read sorted by group, with the
order of the inputs that makes up for it.

Shape suffixes: N output rows, K input columns, G groups along K.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import torch
from torch import Tensor

from glmquant.core.packed_tensor import PackedTensor
from glmquant.core.packing import from_int32_words, to_int32_words
from glmquant.core.parallel import over_strips
from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.errors import CheckpointError, QuantizationError
from glmquant.store.tensors import DeferredTensor, StoredTensor

Version = Literal["gptq", "gptq_v2"]

SUFFIXES: Final = ("qweight", "qzeros", "scales", "g_idx")
WORD_BITS: Final = 32
POWERS: Final = tuple(1 << n for n in range(4, 25))
HALF_ROUNDING: Final = 2.0**-11


def encode(quantized: QuantTensor | PackedTensor, version: Version, *, name: str) -> dict[str, DeferredTensor]:
    """The four tensors of a linear by suffix, each made when it is asked for.

    Raises:
        QuantizationError: the linear's rows or columns do not fill whole 32-bit words.
    """
    rows, columns = quantized.shape
    spec = quantized.spec
    require_whole_words(name, rows, columns, spec.bits)
    groups, words = spec.num_groups(columns), columns * spec.bits // WORD_BITS
    return {
        "qweight": DeferredTensor(torch.int32, (words, rows), lambda: _qweight(quantized)),
        "qzeros": DeferredTensor(
            torch.int32, (groups, rows * spec.bits // WORD_BITS), lambda: _qzeros(quantized, version)
        ),
        "scales": DeferredTensor(torch.float16, (groups, rows), lambda: quantized.scales_NG.T.contiguous().half()),
        "g_idx": DeferredTensor(torch.int32, (columns,), lambda: group_of_column(columns, spec)),
    }


def _qweight(quantized: QuantTensor | PackedTensor) -> Tensor:
    rows, columns = quantized.shape
    bits = quantized.spec.bits
    qweight = torch.empty(columns * bits // WORD_BITS, rows, dtype=torch.int32)

    def fill(part: slice) -> None:
        qweight[:, part] = to_int32_words(quantized.rows(part.start, part.stop).codes_NK, bits).T

    over_strips(fill, rows, columns)
    return qweight


def _qzeros(quantized: QuantTensor | PackedTensor, version: Version) -> Tensor:
    spec, zeros_NG = quantized.spec, quantized.zeros_NG
    stored_NG = (zeros_NG - 1) & spec.max_code if version == "gptq" else zeros_NG
    return to_int32_words(stored_NG.T, spec.bits)


def require_whole_words(name: str, rows: int, columns: int, bits: int) -> None:
    """Raises QuantizationError for a linear that the format cannot hold."""
    for what, count in (("output rows", rows), ("input columns", columns)):
        if count * bits % WORD_BITS:
            raise QuantizationError(
                f"{name} has {count} {what}; at {bits} bits they do not fill whole 32-bit words",
                expected=f"a multiple of {WORD_BITS // bits}: the GPTQ format knows no padding",
                hint=f"quantize it to more bits, or keep it float with a rule that matches {name}",
            )


def decode(words: Mapping[str, Tensor], spec: QuantSpec, version: Version) -> QuantTensor:
    """The inverse of :func:`encode`; the result is symmetric if every zero point is in the middle, else not.

    Args:
        words: ``qweight``, ``qzeros`` and ``scales``.
        spec: its bits and group size are taken.

    Raises:
        CheckpointError: a scale that float16 cannot hold.
    """
    stored_GN = from_int32_words(words["qzeros"], spec.bits)
    zeros_GN = (stored_GN + 1) & spec.max_code if version == "gptq" else stored_GN
    symmetric = bool((zeros_GN == spec.middle).all())
    qweight = words["qweight"]
    rows, columns = qweight.shape[1], qweight.shape[0] * WORD_BITS // spec.bits
    codes_NK = torch.empty(rows, columns, dtype=torch.uint8)

    def fill(part: slice) -> None:
        codes_NK[part] = from_int32_words(qweight[:, part].T, spec.bits)

    over_strips(fill, rows, columns)
    return QuantTensor(
        codes_NK,
        _half_scales(words["scales"]).T.contiguous(),
        zeros_GN.T.contiguous(),
        replace(spec, symmetric=symmetric),
    )


def group_of_column(columns: int, spec: QuantSpec) -> Tensor:
    """``g_idx`` of columns in their natural order, int32 ``[K]``."""
    return torch.arange(columns, dtype=torch.int32) // spec.width(columns)


def _half_scales(scales_GN: Tensor) -> Tensor:
    """Scales as float32 values that float16 can hold; those stored in other dtypes are rounded."""
    exact_GN = scales_GN.float()
    rounded_GN = exact_GN.half().float()
    if not bool(((rounded_GN - exact_GN).abs() <= HALF_ROUNDING * exact_GN.abs()).all()):
        raise CheckpointError("a scale is beyond what float16 can hold", expected="scales from 6.1e-05 to 65504, or 0")
    return rounded_GN


@dataclass(frozen=True)
class GptqFormat:
    """What the configuration says and the tensors cannot: how zero points are stored, and the usual group size."""

    version: Version
    group_size: int


@dataclass(frozen=True)
class GptqLinear:
    """A quantized linear that still lies in a file; its shapes are checked, its codes not yet read.

    Attributes:
        order_K: columns sorted by group, int64, as :class:`glmquant.glm.block.Linear` has it; None where they are.
    """

    qweight: StoredTensor
    qzeros: StoredTensor
    scales: StoredTensor
    g_idx: StoredTensor | None
    spec: QuantSpec
    version: Version
    order_K: Tensor | None = field(default=None, compare=False)

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        parts = (self.qweight, self.qzeros, self.scales)
        return parts if self.g_idx is None else (*parts, self.g_idx)

    def read(self, start: int, stop: int) -> QuantTensor:
        """Rows ``[start, stop)``, columns in ``order_K``.

        Raises:
            CheckpointError: scales that are not finite or that float16 cannot hold.
        """
        words = {"qweight": self.qweight.read(), "qzeros": self.qzeros.read(), "scales": self.scales.read()}
        try:
            quantized = decode(words, self.spec, self.version).rows(start, stop)
        except CheckpointError as error:
            raise CheckpointError(f"{self.scales.name}: {error.what}", where=self.scales.path) from error
        if self.order_K is None:
            return quantized
        return replace(quantized, codes_NK=quantized.codes_NK[:, self.order_K])


def locate_linear(
    stored: Mapping[str, StoredTensor], module: str, shape: tuple[int, ...], gptq: GptqFormat
) -> GptqLinear:
    """The quantized linear ``module`` of a checkpoint, whose weight is ``[N, K]``.

    Raises:
        CheckpointError: a tensor is missing, of the wrong dtype or shape, or its groups are of uneven size.
    """
    parts = {suffix: stored.get(f"{module}.{suffix}") for suffix in SUFFIXES}
    qweight, qzeros, scales, g_idx = (parts[suffix] for suffix in SUFFIXES)
    if qweight is None or qzeros is None or scales is None:
        missing = [f"{module}.{suffix}" for suffix in SUFFIXES[:3] if parts[suffix] is None]
        raise CheckpointError(f"the checkpoint has no tensor {missing[0]}", where=module, expected="a GPTQ linear")
    spec = _spec(qweight, scales, shape, gptq)
    rows, columns = shape
    groups = spec.num_groups(columns)
    _require(qweight, (columns * spec.bits // WORD_BITS, rows), torch.int32)
    _require(qzeros, (groups, rows * spec.bits // WORD_BITS), torch.int32)
    _require(scales, (groups, rows), torch.float16, torch.bfloat16, torch.float32)
    order_K = None
    if g_idx is not None:
        _require(g_idx, (columns,), torch.int32)
        order_K = _order_by_group(g_idx, columns, spec)
    return GptqLinear(qweight, qzeros, scales, g_idx, spec, gptq.version, order_K)


def _spec(qweight: StoredTensor, scales: StoredTensor, shape: tuple[int, ...], gptq: GptqFormat) -> QuantSpec:
    """Bits and group size as the shapes of the words and the scales have them."""
    rows, columns = shape
    words = qweight.shape[0] if qweight.shape else 0
    bits = next((b for b in (2, 4, 8) if b * columns == words * WORD_BITS and b * rows % WORD_BITS == 0), None)
    if bits is None:
        raise CheckpointError(
            f"{qweight.name} has shape {list(qweight.shape)}, the weight {list(shape)}",
            where=qweight.path,
            expected="2, 4 or 8 bits a weight, in whole 32-bit words",
        )
    groups = scales.shape[0] if scales.shape else 0
    return QuantSpec(bits, _group_size(columns, groups, gptq.group_size, scales), symmetric=False)


def _group_size(columns: int, groups: int, usual: int, scales: StoredTensor) -> int:
    for size in (usual, WHOLE_ROW, *POWERS):
        if size in (WHOLE_ROW, *POWERS) and QuantSpec(8, size).num_groups(columns) == groups:
            return size
    raise CheckpointError(
        f"{scales.name} has {groups} groups for {columns} columns",
        where=scales.path,
        expected="groups of a power of two of at least 16 columns, or whole rows",
    )


def _require(tensor: StoredTensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    if tensor.shape != shape or tensor.dtype not in dtypes:
        raise CheckpointError(
            f"{tensor.name} is {tensor.dtype} of shape {list(tensor.shape)}",
            where=tensor.path,
            expected=f"{' or '.join(str(dtype) for dtype in dtypes)} of shape {list(shape)}",
        )


def _order_by_group(g_idx: StoredTensor, columns: int, spec: QuantSpec) -> Tensor | None:
    groups_K, natural_K = g_idx.read(), group_of_column(columns, spec)
    if torch.equal(groups_K, natural_K):
        return None
    order_K = groups_K.argsort(stable=True)
    if not torch.equal(groups_K[order_K], natural_K):
        raise CheckpointError(
            f"{g_idx.name} does not put {spec.width(columns)} columns into every group",
            where=g_idx.path,
            expected="groups of one size, as scales and group_size have it; the last may be smaller",
        )
    return order_K
