"""The publisher's own row-wise quantization: ChatGLM2-6B-int4, -int8 and their like (``quantization_bit``).

Shape suffixes: N output rows, K input columns, P bytes of a packed row.

A weight is ``codes * scale``, one scale a row, codes signed. 8 bits are stored as they are; of 4 bits the even column
lies in the high half of a byte (``quantization.py`` beside the weights of THUDM/chatglm2-6b-int4).
"""

import torch
from torch import Tensor

from glmquant.core.qtensor import QuantTensor, storable
from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.errors import CheckpointError


def read_rows(packed_NP: Tensor, scales_N: Tensor, bits: int) -> QuantTensor:
    """Published rows as a quantized tensor with the same codes and scales.

    Args:
        packed_NP: int8, ``P = K * bits / 8``.
        scales_N: float.
        bits: 4 or 8.

    Raises:
        CheckpointError: scales that are negative, NaN or infinite.
    """
    spec = QuantSpec(bits, WHOLE_ROW, symmetric=True)
    if not torch.isfinite(scales_N).all() or (scales_N < 0).any():
        raise CheckpointError(
            "a row's scale is negative, NaN or infinite", where="weight_scale", hint="fetch the file again"
        )
    signed_NK = _halves(packed_NP) if bits == 4 else packed_NP
    # A row of scale 0 is zero whatever its codes; a stored scale cannot be 0.
    live_N1 = (scales_N != 0).unsqueeze(1)
    codes_NK = (signed_NK.to(torch.int16) * live_N1 + spec.middle).to(torch.uint8)
    zeros_N1 = torch.full((len(codes_NK), 1), spec.middle, dtype=torch.uint8)
    return QuantTensor(codes_NK, storable(scales_N.float()).unsqueeze(1), zeros_N1, spec)


def _halves(packed_NP: Tensor) -> Tensor:
    """Signed 4-bit codes, the high half of each byte first."""
    return torch.stack([packed_NP >> 4, (packed_NP << 4) >> 4], dim=-1).flatten(-2)
