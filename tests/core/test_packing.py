"""core/packing.py and core/qtensor.py against oracles that place one element at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glmquant.core.packing import (
    from_int32_words,
    pack_bits,
    pack_blocks,
    pack_zero_points,
    to_int32_words,
    unpack_bits,
)
from glmquant.core.qtensor import SMALLEST_SCALE, QuantTensor, spread, storable
from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.errors import QuantizationError

BITS = st.sampled_from([2, 4, 8])


def random_codes(rows: int, columns: int, bits: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, (rows, columns), generator=generator, dtype=torch.uint8)


def bytes_by_element(codes: list[int], bits: int) -> list[int]:
    packed = [0] * (len(codes) * bits // 8)
    for i, code in enumerate(codes):
        packed[i * bits // 8] |= code << (i * bits % 8)
    return packed


@given(BITS, st.integers(1, 5), st.integers(0, 9), st.integers(0, 2**31))
def test_bits_are_packed_first_in_the_lowest(bits: int, rows: int, length: int, seed: int) -> None:
    codes = random_codes(rows, length * 4, bits, seed)
    packed = pack_bits(codes, bits)
    assert packed.tolist() == [bytes_by_element(row, bits) for row in codes.tolist()]
    assert torch.equal(unpack_bits(packed, bits), codes)


def test_packing_of_known_numbers() -> None:
    assert pack_bits(torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert pack_bits(torch.tensor([[3, 0, 1, 2]], dtype=torch.uint8), 2).tolist() == [[0b10010011]]
    assert pack_bits(torch.tensor([[200]], dtype=torch.uint8), 8).tolist() == [[200]]


@pytest.mark.parametrize(("bits", "columns"), [(4, 3), (2, 6), (4, 1)])
def test_codes_that_do_not_fill_bytes_are_refused(bits: int, columns: int) -> None:
    with pytest.raises(QuantizationError, match="whole bytes"):
        pack_bits(torch.zeros(1, columns, dtype=torch.uint8), bits)


@given(BITS, st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_words_hold_codes_first_in_the_lowest_bits(bits: int, rows: int, words: int, seed: int) -> None:
    codes = random_codes(rows, words * 32 // bits, bits, seed)
    packed = to_int32_words(codes, bits)
    assert packed.dtype == torch.int32
    for r in range(rows):
        for w in range(words):
            value = sum(int(codes[r, w * 32 // bits + i]) << (bits * i) for i in range(32 // bits))
            assert int(packed[r, w]) % 2**32 == value
    assert torch.equal(from_int32_words(packed, bits), codes)


@given(BITS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_words_of_transposed_matrices(bits: int, rows: int, words: int, seed: int) -> None:
    codes = random_codes(rows, words * 32 // bits, bits, seed)
    packed = to_int32_words(codes.T.contiguous().T, bits)
    assert torch.equal(from_int32_words(packed.T.contiguous().T, bits), codes)


def test_codes_that_do_not_fill_words_are_refused() -> None:
    with pytest.raises(QuantizationError, match="32-bit words"):
        to_int32_words(torch.zeros(1, 12, dtype=torch.uint8), 4)


@given(BITS, st.integers(1, 3), st.integers(1, 70), st.sampled_from([16, 32]), st.integers(0, 3), st.integers(0, 2**31))
def test_blocks_with_ragged_tails(bits: int, rows: int, columns: int, size: int, padding: int, seed: int) -> None:
    codes = random_codes(rows, columns, bits, seed)
    packed = pack_blocks(codes, bits, size, padding)
    blocks = (columns + size - 1) // size
    assert packed.shape == (rows, blocks, size * bits // 8)
    for r in range(rows):
        padded = codes[r].tolist() + [padding] * (blocks * size - columns)
        assert packed[r].flatten().tolist() == bytes_by_element(padded, bits)


@given(BITS, st.integers(1, 3), st.integers(1, 11), st.integers(0, 2**31))
def test_zero_points_fill_each_row_to_a_byte(bits: int, rows: int, blocks: int, seed: int) -> None:
    zeros = random_codes(rows, blocks, bits, seed)
    packed = pack_zero_points(zeros, bits)
    for r in range(rows):
        padded = zeros[r].tolist() + [0] * (-blocks % (8 // bits))
        assert packed[r].tolist() == bytes_by_element(padded, bits)


@settings(max_examples=40)
@given(BITS, st.integers(1, 4), st.integers(1, 70), st.sampled_from([16, 32, 64, WHOLE_ROW]), st.integers(0, 2**31))
def test_the_law_of_a_quantized_tensor(bits: int, rows: int, columns: int, group_size: int, seed: int) -> None:
    spec = QuantSpec(bits, group_size, symmetric=False)
    quantized = random_tensor(rows, columns, spec, seed)
    weights = quantized.dequantize()
    for n in range(rows):
        for k in range(columns):
            group = 0 if group_size == WHOLE_ROW else k // group_size
            code, zero = int(quantized.codes_NK[n, k]), int(quantized.zeros_NG[n, group])
            expected = torch.tensor(float(code - zero)) * quantized.scales_NG[n, group]
            assert weights[n, k] == expected


def random_tensor(rows: int, columns: int, spec: QuantSpec, seed: int) -> QuantTensor:
    groups = spec.num_groups(columns)
    scales = storable(torch.rand(rows, groups, generator=torch.Generator().manual_seed(seed)))
    zeros = random_codes(rows, groups, spec.bits, seed + 1)
    return QuantTensor(random_codes(rows, columns, spec.bits, seed), scales, zeros, spec)


def test_rows_and_stack_are_inverse() -> None:
    whole = random_tensor(6, 40, QuantSpec(4, 16, symmetric=False), 3)
    again = QuantTensor.stack([whole.rows(0, 2), whole.rows(2, 6)])
    assert torch.equal(again.dequantize(), whole.dequantize())
    assert torch.equal(whole.rows(2, 5).dequantize(), whole.dequantize()[2:5])
    assert whole.dequantize(torch.float16).dtype == torch.float16


def test_tensors_of_different_specs_do_not_stack() -> None:
    parts = [random_tensor(2, 32, QuantSpec(bits, 16, symmetric=False), 0) for bits in (4, 8)]
    with pytest.raises(QuantizationError, match="different specs"):
        QuantTensor.stack(parts)


def test_what_breaks_the_law_is_refused() -> None:
    good = random_tensor(2, 32, QuantSpec(4, 16), 0)
    with pytest.raises(QuantizationError, match="do not fit codes"):
        QuantTensor(good.codes_NK, good.scales_NG[:, :1], good.zeros_NG, good.spec)
    with pytest.raises(QuantizationError, match="dtypes"):
        QuantTensor(good.codes_NK.int(), good.scales_NG, good.zeros_NG, good.spec)


def test_spread_cuts_the_ragged_tail() -> None:
    assert spread(torch.tensor([[1, 2]]), 3, 5).tolist() == [[1, 1, 1, 2, 2]]


def test_storable_scales() -> None:
    scales = storable(torch.tensor([0.0, 1e-12, 0.1, 1.0, 65504.0]))
    assert scales.tolist() == [SMALLEST_SCALE, SMALLEST_SCALE, torch.tensor(0.1).half().item(), 1.0, 65504.0]
    with pytest.raises(QuantizationError, match="overflows float16"):
        storable(torch.tensor([70000.0]))
