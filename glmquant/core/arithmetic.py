"""The class of machines that compute the same bytes, whatever their number of cores."""

import platform
from importlib.metadata import version

import torch

from glmquant.core.device import CPU


def arithmetic(dtype: torch.dtype, device: torch.device = CPU) -> dict[str, str]:
    """What the bytes of matrix products depend on: torch's build, the processor's instructions, and precision.

    Args:
        dtype: of the products' operands.
    """
    return {"torch": version("torch"), "processor": _processor(device), "precision": str(dtype).removeprefix("torch.")}


def _processor(device: torch.device) -> str:
    if device.type != "cpu":
        return torch.cuda.get_device_name(device)
    tiles = " with AMX" if torch.cpu._is_amx_tile_supported() else ""
    bfloat16 = " with bfloat16" if torch.cpu._is_avx512_bf16_supported() else ""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}{bfloat16}{tiles}"
