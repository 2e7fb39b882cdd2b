"""What an RMSNorm's result can be at most."""

import pytest
import torch

from glmquant.glm.rotary import largest_normed, rms_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-6, 1.0, 3e4])
def test_no_vector_exceeds_the_bound_and_one_element_alone_comes_near(dtype: torch.dtype, size: float) -> None:
    torch.manual_seed(0)
    width = 300
    gain = torch.randn(width) * torch.logspace(-3, 2, width)
    gain[7] = 0
    normed = rms_norm(torch.cat([size * torch.eye(width), size * torch.randn(50, width)]), gain, 1e-18).to(dtype)
    largest, found = largest_normed(gain), normed.float().abs().amax(0)
    assert bool((found <= largest).all())
    assert bool((found >= 0.98 * largest).all())
