import pytest
import torch

from glmquant.core.finite import is_finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_bad_value_among_many_is_found(bad: float, dtype: torch.dtype) -> None:
    values = torch.ones(33, 70, dtype=dtype)
    assert is_finite(values)
    values[17, 69] = bad
    assert not is_finite(values)


def test_bad_values_that_would_cancel_are_found() -> None:
    assert not is_finite(torch.tensor([float("inf"), -float("inf"), 1.0]))


def test_finite_values_whose_sum_overflows_are_finite() -> None:
    assert is_finite(torch.full((1000,), 3e38))
    assert is_finite(torch.full((1000,), -60000.0, dtype=torch.float16))
