"""A quantized matrix kept as small as its bits allow.

Shape suffixes: N output rows, K input columns, G groups along K.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from glmquant.core.packing import pack_bits, unpack_bits
from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A :class:`glmquant.core.qtensor.QuantMatrix` whose codes share bytes until rows are asked for.

    Attributes:
        packed: codes, ``[N, K * bits / 8]``; as they are where a row does not fill whole bytes.
    """

    packed: Tensor
    scales_NG: Tensor
    zeros_NG: Tensor
    spec: QuantSpec
    shape: tuple[int, int]

    @staticmethod
    def of(weight: QuantTensor) -> "PackedTensor":
        codes_NK, bits = weight.codes_NK, weight.spec.bits
        packed = pack_bits(codes_NK, bits) if codes_NK.shape[1] * bits % 8 == 0 else codes_NK
        return PackedTensor(packed, weight.scales_NG, weight.zeros_NG, weight.spec, weight.shape)

    def to(self, device: torch.device) -> "PackedTensor":
        """The same tensor on a device."""
        scales_NG, zeros_NG = self.scales_NG.to(device), self.zeros_NG.to(device)
        return PackedTensor(self.packed.to(device), scales_NG, zeros_NG, self.spec, self.shape)

    def part(self, start: int, stop: int) -> "PackedTensor":
        """Rows ``[start, stop)``, as small as they are."""
        rows = slice(start, stop)
        shape = (stop - start, self.shape[1])
        return PackedTensor(self.packed[rows], self.scales_NG[rows], self.zeros_NG[rows], self.spec, shape)

    def rows(self, start: int, stop: int) -> QuantTensor:
        part, columns = self.packed[start:stop], self.shape[1]
        codes_NK = part if part.shape[1] == columns else unpack_bits(part, self.spec.bits)
        return QuantTensor(codes_NK, self.scales_NG[start:stop], self.zeros_NG[start:stop], self.spec)
