"""Attention in strips is causal grouped-query attention, to bfloat16's precision."""

import pytest
import torch

from glmquant.glm.parts.attend import STRIP_POSITIONS, attend


@pytest.mark.parametrize("length", [1, STRIP_POSITIONS - 1, STRIP_POSITIONS, STRIP_POSITIONS + 1, 150])
@pytest.mark.parametrize("heads", [(2, 1, 16), (6, 3, 8), (4, 4, 12)], ids=str)
def test_strips_give_what_float32_gives(length: int, heads: tuple[int, int, int]) -> None:
    queries, keys, size = heads
    generator = torch.Generator().manual_seed(length)
    shapes = ((2, length, queries, size), (2, length, keys, size), (2, length, keys, size))
    query, key, value = (2 * torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    expected = attend(query.float(), key.float(), value.float(), None)
    found = attend(query, key, value, None)
    assert found.dtype == torch.bfloat16
    assert found.shape == expected.shape == (2, length, queries * size)
    assert (found.float() - expected).norm() <= 2**-8 * expected.norm()
