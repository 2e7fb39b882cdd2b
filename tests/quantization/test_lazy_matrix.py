"""Rows quantized on demand are the rows of the whole, and their error is the matrix's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmquant.core import parallel as strips
from glmquant.core.spec import QuantSpec
from glmquant.methods import Rtn
from glmquant.quantization.lazy_matrix import LazyMatrix, Squares, relative


@given(
    rows=st.integers(1, 40),
    columns=st.sampled_from([7, 32, 50]),
    strips_at_once=st.integers(1, 5),
    bits=st.sampled_from([2, 4, 8]),
    symmetric=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pieces_are_the_whole(
    rows: int, columns: int, strips_at_once: int, bits: int, symmetric: bool, seed: int
) -> None:
    weight_NK = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).half()
    spec = QuantSpec(bits, 16, symmetric)
    whole = Rtn().quantize(weight_NK, spec, None)
    at_once, in_pieces = dict[int, tuple[float, float]](), dict[int, tuple[float, float]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "STRIP_ELEMENTS", 3 * columns)
        found = LazyMatrix(weight_NK, spec, Rtn(), at_once).rows(0, rows)
        rowwise, step = LazyMatrix(weight_NK, spec, Rtn(), in_pieces), 3 * strips_at_once
        pieces = [rowwise.rows(start, min(start + step, rows)) for start in reversed(range(0, rows, step))]
    for name in ("codes_NK", "scales_NG", "zeros_NG"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
        assert torch.equal(torch.cat([getattr(piece, name) for piece in reversed(pieces)]), getattr(whole, name))
    assert relative(in_pieces) == relative(at_once)
    lost = (whole.dequantize().double() - weight_NK.double()).square().sum() / weight_NK.double().square().sum()
    assert relative(at_once) == pytest.approx(float(lost), rel=1e-4)


def test_a_matrix_of_zeros_loses_nothing() -> None:
    squares: Squares = {}
    LazyMatrix(torch.zeros(2, 16), QuantSpec(4, 16), Rtn(), squares).rows(0, 2)
    assert relative(squares) == 0.0
