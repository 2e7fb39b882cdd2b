"""The publisher's row-wise quantization against a reference written from its formula, element by element."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmquant.errors import CheckpointError
from glmquant.glm.layouts.row_quantized import read_rows


def rounded(row: list[float], bits: int) -> tuple[list[int], float]:
    """A row's codes and scale: scale = absmax / (2^(bits-1) - 1)."""
    scale = torch.tensor(max(abs(weight) for weight in row) / (2 ** (bits - 1) - 1)).half().item()
    most = 2 ** (bits - 1) - 1
    return [max(-most, min(most, round(weight / scale))) if scale else 0 for weight in row], scale


def packed(codes: list[int], bits: int) -> list[int]:
    """Codes as signed bytes; of 4 bits the even column lies high."""
    if bits == 4:
        codes = [(even & 15) << 4 | (odd & 15) for even, odd in zip(codes[::2], codes[1::2], strict=True)]
    return [byte - 256 if byte > 127 else byte for byte in codes]


ROWS = st.lists(st.lists(st.floats(-4, 4, width=16), min_size=6, max_size=6), min_size=1, max_size=4)


@given(ROWS, st.sampled_from([4, 8]))
def test_rows_are_codes_times_scale(weights: list[list[float]], bits: int) -> None:
    rows = [rounded(row, bits) for row in weights]
    stored = torch.tensor([packed(codes, bits) for codes, _ in rows], dtype=torch.int8)
    tensor = read_rows(stored, torch.tensor([scale for _, scale in rows]).half(), bits)
    assert (tensor.spec.bits, tensor.spec.group_size, tensor.spec.symmetric) == (bits, -1, True)
    assert tensor.dequantize().tolist() == [[code * scale for code in codes] for codes, scale in rows]


def test_four_bits_by_hand() -> None:
    stored = torch.tensor([[0x7F, -0x6F]], dtype=torch.int8)  # 0111 1111 and 1001 0001
    tensor = read_rows(stored, torch.tensor([0.5]), 4)
    assert tensor.codes_NK.tolist() == [[15, 7, 1, 9]]
    assert tensor.dequantize().tolist() == [[3.5, -0.5, -3.5, 0.5]]


def test_eight_bits_by_hand() -> None:
    tensor = read_rows(torch.tensor([[127, -127, 0], [1, 2, 3]], dtype=torch.int8), torch.tensor([0.25, 0.0]), 8)
    assert tensor.codes_NK.tolist() == [[255, 1, 128], [128, 128, 128]]
    assert tensor.dequantize().tolist() == [[31.75, -31.75, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_scales_that_mean_nothing_are_refused(scale: float) -> None:
    with pytest.raises(CheckpointError, match="scale is negative, NaN or infinite"):
        read_rows(torch.zeros(1, 2, dtype=torch.int8), torch.tensor([scale]), 8)
