"""In which arithmetic this machine multiplies matrices fastest, and how far that may be trusted.

bfloat16 operands with float32 sums are two to four times as fast where the processor has instructions for them. The
choice follows from those instructions, never from a stopwatch: a run that is taken up again must compute the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from glmquant.core.device import CPU
from glmquant.core.parallel import over_runs

Precision = Literal["auto", "float32", "bfloat16"]

FIRST_WITH_BFLOAT16 = (8, 0)
"""Compute capability of the first GPUs that multiply bfloat16 matrices (CUDA C++ Programming Guide, §16)."""
OUTPUTS_AT_ONCE = 256
ALIGNED_OUTPUTS = 64
WORK_AT_ONCE = 1 << 30
"""Multiplications and additions."""
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


def project(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """``x Wᵀ + b`` ``[..., N]`` of ``x`` ``[..., K]``, all of one dtype.

    On processors with AMX, oneDNN splits the sums of bfloat16 products as the number of threads has it: there, runs of
    outputs are computed by a thread each. Where gradients are asked for, it is torch's own.
    """
    tiled = x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    if not tiled or (torch.is_grad_enabled() and (x.requires_grad or weight_NK.requires_grad)):
        return functional.linear(x, weight_NK, bias_N)
    rows_TK, outputs = x.flatten(0, -2), len(weight_NK)
    out_TN = torch.empty(len(rows_TK), outputs, dtype=x.dtype)

    def fill(part: slice) -> None:
        factor_KP, out_TP = weight_NK[part].T, out_TN[:, part]
        if bias_N is None:
            torch.mm(rows_TK, factor_KP, out=out_TP)
        else:
            torch.addmm(bias_N[part], rows_TK, factor_KP, out=out_TP)

    over_runs(fill, outputs, _outputs_at_once(rows_TK.numel(), outputs))
    return out_TN.view(*x.shape[:-1], outputs)


def _outputs_at_once(work: int, outputs: int) -> int:
    """Of about equal runs, as wide as kernels like it and each worth a thread."""
    runs = max(1, -(-outputs * work // WORK_AT_ONCE))
    return max(OUTPUTS_AT_ONCE, -(-outputs // runs // ALIGNED_OUTPUTS) * ALIGNED_OUTPUTS)


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
