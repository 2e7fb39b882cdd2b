"""GPTQ on disk with 3 bits, which glmquant itself neither writes nor reads.

As AutoGPTQ, GPTQModel and AutoRound store it (``gptq``, v1): the codes of a column are one stream of bits, the first
code lowest, in 32-bit words; zero points less one likewise.

Shape suffixes: N output rows, K input columns, G groups along K, R rows of words, W words in a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

BITS = 3
HALVES = ("gate_proj", "up_proj")


@dataclass(frozen=True, eq=False)
class ThreeBitLinear:
    """Codes and zero points as integers; ``groups_K`` is the group of each column."""

    codes_NK: Tensor
    zeros_NG: Tensor
    scales_NG: Tensor
    groups_K: Tensor

    def dense(self) -> Tensor:
        return (self.codes_NK - self.zeros_NG[:, self.groups_K]) * self.scales_NG[:, self.groups_K]

    @property
    def bits(self) -> int:
        """With 16 bits a scale and 3 a zero point, unless all of those are in the middle."""
        says_something = bool((self.zeros_NG != 1 << (BITS - 1)).any())
        return BITS * self.codes_NK.numel() + (16 + BITS * says_something) * self.scales_NG.numel()


class ThreeBitFile:
    """The quantized linear layers of a directory, by module name; a fused gate and up may be stored apart."""

    def __init__(self, directory: Path) -> None:
        self._tensors = {
            name: t for file in sorted(directory.glob("*.safetensors")) for name, t in load_file(file).items()
        }

    def linears(self, module: str) -> list[ThreeBitLinear]:
        """The linears whose rows are stacked in ``module``."""
        split = f"{module}.qweight" not in self._tensors
        names = [module.replace("gate_up_proj", half) for half in HALVES] if split else [module]
        return [_linear(self._tensors, name) for name in names]


def unpack(words_RW: Tensor) -> Tensor:
    """The 3-bit codes of rows of little-endian 32-bit words: int64 ``[R, W * 32 / 3]``."""
    rows = words_RW.contiguous().numpy().view(np.uint8)
    bits = np.unpackbits(rows, axis=1, bitorder="little").reshape(len(rows), -1, BITS)
    return torch.from_numpy(bits @ (1 << np.arange(BITS)))


def _linear(tensors: Mapping[str, Tensor], name: str) -> ThreeBitLinear:
    codes_NK = unpack(tensors[f"{name}.qweight"].T)
    zeros_NG = unpack(tensors[f"{name}.qzeros"]).T + 1
    scales_NG = tensors[f"{name}.scales"].T.float()
    return ThreeBitLinear(codes_NK, zeros_NG, scales_NG, tensors[f"{name}.g_idx"].long())
