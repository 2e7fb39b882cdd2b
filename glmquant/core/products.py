"""In which arithmetic this machine multiplies matrices fastest, and how far that may be trusted.

bfloat16 operands with float32 sums are two to four times as fast where the processor has instructions for them. The
choice follows from those instructions, never from a stopwatch: a run that is taken up again must compute the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]

PROBE_SIZE = 256  # below this other kernels may answer than for the products that matter


@cache
def forward_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, else float32."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native and torch.backends.mkldnn.is_available() else torch.float32


def dtype_for(precision: Precision) -> torch.dtype:
    return forward_dtype() if precision == "auto" else getattr(torch, precision)


@contextmanager
def float32_products(*, exact: bool) -> Iterator[None]:
    """Lets oneDNN multiply float32 matrices while the context lasts.

    Args:
        exact: operands keep all their bits. Otherwise oneDNN may round them to bfloat16 (sums stay float32), which it
            does only where that is faster.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if not exact or _medium_is_exact() else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _medium_is_exact() -> bool:
    """Whether oneDNN's float32 products keep what bfloat16 cannot hold; on some processors they beat the default's."""
    torch.set_float32_matmul_precision("medium")
    fine = torch.full((PROBE_SIZE, PROBE_SIZE), 1 + 2.0**-12)
    return bool(((fine @ torch.eye(PROBE_SIZE)) == fine).all())
