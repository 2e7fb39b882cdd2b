import torch

from glmquant.core.arithmetic import arithmetic
from glmquant.core.matmul import forward_dtype


def test_it_names_the_build_the_instructions_and_the_precision() -> None:
    found = arithmetic(torch.float32)
    assert found.keys() == {"torch", "processor", "precision"}
    assert found["torch"] == torch.__version__
    assert torch.backends.cpu.get_cpu_capability() in found["processor"]
    assert found["precision"] == "float32"


def test_another_precision_is_another_class() -> None:
    assert arithmetic(torch.bfloat16) != arithmetic(torch.float32)
    assert ("bfloat16" in arithmetic(torch.float32)["processor"]) == (forward_dtype() is torch.bfloat16)
