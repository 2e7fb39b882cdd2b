"""In which arithmetic this machine multiplies matrices fastest, and how far that may be trusted.

bfloat16 operands with float32 sums are two to four times as fast where the processor has instructions for them. The
choice follows from those instructions, never from a stopwatch: a run that is taken up again must compute the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch

from glmquant.core.device import CPU

Precision = Literal["auto", "float32", "bfloat16"]

FIRST_WITH_BFLOAT16 = (8, 0)
"""Compute capability of the first GPUs that multiply bfloat16 matrices (CUDA C++ Programming Guide, §16)."""
PROBE_SIZE = 256  # below this other kernels may answer than for the products that matter


@cache
def forward_dtype(device: torch.device = CPU) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= FIRST_WITH_BFLOAT16 else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native and torch.backends.mkldnn.is_available() else torch.float32


def dtype_for(precision: Precision, device: torch.device = CPU) -> torch.dtype:
    return forward_dtype(device) if precision == "auto" else getattr(torch, precision)


@contextmanager
def float32_products(device: torch.device = CPU, *, exact: bool) -> Iterator[None]:
    """How float32 matrices are multiplied while the context lasts: by oneDNN, or on a GPU by cuBLAS.

    Args:
        exact: operands keep all their bits. Otherwise oneDNN may round them to bfloat16 (sums stay float32), which it
            does only where that is faster; a GPU rounds them to its TF32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_matmul_precision(device, exact))
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _matmul_precision(device: torch.device, exact: bool) -> str:
    if device.type == "cuda":
        return "highest" if exact else "high"
    return "medium" if not exact or _medium_is_exact() else "highest"


@cache
def _medium_is_exact() -> bool:
    """Whether oneDNN's float32 products keep what bfloat16 cannot hold; on some processors they beat the default's."""
    torch.set_float32_matmul_precision("medium")
    fine = torch.full((PROBE_SIZE, PROBE_SIZE), 1 + 2.0**-12)
    return bool(((fine @ torch.eye(PROBE_SIZE)) == fine).all())
