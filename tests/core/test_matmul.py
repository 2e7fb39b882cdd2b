"""Products of linear layers against torch's own, and the same bytes on any number of threads."""

import pytest
import torch
from torch.nn.functional import linear

from glmquant.core.matmul import project
from tests.support.threads import threads

SHAPES = [(3, 5, 8), (64, 256, 32), (256, 600, 96), (1024, 1056, 1056)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_a_linear_layer(shape: tuple[int, int, int], dtype: torch.dtype, biased: bool) -> None:
    tokens, rows, columns = shape
    torch.manual_seed(0)
    x, weight = torch.randn(2, tokens, columns).to(dtype), torch.randn(rows, columns).to(dtype)
    bias = torch.randn(rows).to(dtype) if biased else None
    found = project(x, weight, bias)
    wanted = linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert found.dtype == dtype
    assert found.shape == (2, tokens, rows)
    assert (found - wanted).abs().max() <= torch.finfo(dtype).eps * columns**0.5 * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_its_bytes_do_not_depend_on_threads(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    tokens, rows, columns = shape
    torch.manual_seed(0)
    x, weight = torch.randn(tokens, columns).to(dtype), torch.randn(rows, columns).to(dtype)
    found = []
    for count in (1, 2, 3, 4):
        with threads(count):
            found.append(project(x, weight))
    assert all(torch.equal(found[0], each) for each in found[1:])


def test_gradients_pass_through_it() -> None:
    x, weight = torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True), torch.ones(300, 4, dtype=torch.bfloat16)
    project(x, weight).sum().backward()
    assert x.grad is not None
    assert bool((x.grad == 300).all())
