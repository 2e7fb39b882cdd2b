"""Which devices there are, and what is asked of each."""

import pytest
import torch

from glmquant.core.device import CPU, device_named
from glmquant.core.matmul import dtype_for, float32_products
from glmquant.errors import DeviceError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_the_processor_is_always_there() -> None:
    assert device_named("cpu") == CPU


@pytest.mark.parametrize("name", ["", "gpu", "cpu:1", "cuda:", "cuda:one", "cuda:-1", "mps"])
def test_no_other_device_is_known(name: str) -> None:
    with pytest.raises(DeviceError, match="expected: cpu, cuda or cuda:N"):
        device_named(name)


@pytest.mark.parametrize(("version", "why"), [(None, "is built without CUDA"), ("13.0", "finds no GPU")])
def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, version: str | None, why: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    with pytest.raises(DeviceError, match=f"{why}\n.*where: device='cuda'\n.*hint: compute on the device cpu"):
        device_named("cuda")


def test_a_gpu_is_chosen_by_number(two_gpus: None) -> None:
    assert device_named("cuda") == torch.device("cuda")
    assert device_named("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match=r"has 2 GPUs(.|\n)*cuda:0 to cuda:1"):
        device_named("cuda:2")


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_a_gpu_multiplies_in_what_it_has_units_for(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    gpu = torch.device("cuda", capability[0])  # another one each time: what is found of a device is kept
    assert dtype_for("auto", gpu) == dtype
    assert dtype_for("float32", gpu) == torch.float32


@pytest.mark.parametrize(("exact", "precision"), [(True, "highest"), (False, "high")])
def test_float32_keeps_its_bits_on_a_gpu_where_that_is_asked(exact: bool, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    with float32_products(torch.device("cuda"), exact=exact):
        assert torch.get_float32_matmul_precision() == precision
    assert torch.get_float32_matmul_precision() == before
