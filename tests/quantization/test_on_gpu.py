"""Every pass computes on the device it is given, nothing of it on another, and finds what the processor finds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from glmquant import api
from glmquant.core import arithmetic
from glmquant.errors import DeviceError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.quantization import block_pass
from glmquant.quantization import quantize as quantization
from glmquant.quantization.calibrate import key_value_ranges
from glmquant.quantization.forecast import forecast
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import open_checkpoint
from glmquant.streaming.activations import ActivationStore
from glmquant.streaming.features import pooled_features
from glmquant.streaming.resources import Resources
from tests.quantization.test_allocate import RULES
from tests.quantization.test_quantize import recipe, samples_for
from tests.support.paths import CHATGLM2, GOLDEN, contents
from tests.support.simulated_gpu import GPU, simulated_gpu
from tests.support.threads import threads

EVERYTHING = {"fit.equalize": True, "fit.error_propagation": 1.0, "fit.token_weights": "relative"}
DESCENT = [{"match": "*", "spec": {"bits": 4, "group_size": 32}, "method": {"kind": "gptq", "coordinate_descent": 2}}]
RECIPES: dict[str, dict[str, Any]] = {
    "gptq, rtn, kept": {"rules": [rule.model_dump() for rule in recipe().rules]},
    "everything": {"rules": DESCENT, **EVERYTHING},
    "allocated": {"rules": RULES, "allocate.average_bits": 5.0, "fit.equalize": True},
    "rtn": {"rules": [rule.model_dump() for rule in recipe("rtn").rules]},
}


@pytest.fixture(autouse=True)
def same_arithmetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both sides compute by the same kernels, so that every bit can be compared, and say the same of it."""
    monkeypatch.setattr(arithmetic, "_processor", lambda device: "one")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    with sdpa_kernel(SDPBackend.MATH), threads(1):
        yield


@pytest.mark.parametrize("name", RECIPES)
def test_quantizing_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    checkpoint, samples = open_checkpoint(CHATGLM2), samples_for(CHATGLM2)
    plan = make_plan(load_recipe(None, RECIPES[name]), checkpoint.config)
    for place in ("cpu", "gpu"):
        (tmp_path / place).mkdir()
    quantize(checkpoint, plan, samples, tmp_path / "cpu")
    with simulated_gpu() as computed:
        quantize(checkpoint, plan, samples, tmp_path / "gpu", store=ActivationStore(device=GPU))
        assert computed() > 500
    assert contents(tmp_path / "gpu") == contents(tmp_path / "cpu")


def test_activations_may_lie_on_the_disk(tmp_path: Path) -> None:
    checkpoint, samples = open_checkpoint(CHATGLM2), samples_for(CHATGLM2)
    with simulated_gpu():
        in_memory, spilled = (
            key_value_ranges(checkpoint, samples, store=ActivationStore(budget, tmp_path, GPU)) for budget in (1e9, 0)
        )
    for one, other in zip(in_memory, spilled, strict=True):
        assert torch.equal(one.value_absmax_CE, other.value_absmax_CE)


@pytest.mark.parametrize("model", GOLDEN)
def test_calibrating_records_the_same(model: str) -> None:
    checkpoint, samples = open_checkpoint(GOLDEN[model]), samples_for(GOLDEN[model])
    on_cpu = key_value_ranges(checkpoint, samples)
    with simulated_gpu() as computed:
        on_gpu = key_value_ranges(checkpoint, samples, store=ActivationStore(device=GPU))
        assert computed() > 100
    for mine, theirs in zip(on_gpu, on_cpu, strict=True):
        assert torch.equal(mine.key_absmax_CE, theirs.key_absmax_CE)
        assert torch.equal(mine.value_absmax_CE, theirs.value_absmax_CE)


def test_a_classifiers_features_are_the_same() -> None:
    checkpoint, ids = open_checkpoint(CHATGLM2), [np.arange(3, 3 + length) for length in (9, 2, 9)]
    on_cpu = pooled_features(checkpoint, ids)
    with simulated_gpu() as computed:
        on_gpu = pooled_features(checkpoint, ids, store=ActivationStore(device=GPU))
        assert computed() > 100
    assert torch.equal(on_gpu, on_cpu)


def test_the_baseline_says_the_same() -> None:
    queries = [Query(np.arange(3, 3 + length), wanted) for length, wanted in ((9, 9), (5, 2), (9, 1))]
    checkpoint = open_checkpoint(CHATGLM2)
    on_cpu = list(BaselineSource(checkpoint).logits(queries))
    with simulated_gpu() as computed:
        on_gpu = list(BaselineSource(checkpoint, store=ActivationStore(device=GPU)).logits(queries))
        assert computed() > 100
    for mine, theirs in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["everything", "allocated"])
def test_a_forecast_measures_the_device(name: str) -> None:
    with simulated_gpu() as computed:
        checkpoint = open_checkpoint(CHATGLM2)
        plan = make_plan(load_recipe(None, RECIPES[name]), checkpoint.config)
        found = forecast(checkpoint, plan, 1_000_000, Resources(GPU))
        assert computed() > 100
    assert found.seconds > 0


@pytest.mark.parametrize("verb", ["quantize", "run"])
def test_a_full_gpu_is_an_error_from_which_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The GPU is full when the second block comes; then other programs have gone."""
    blocks: list[int] = []

    def quantize_block(*given: Any, **options: Any) -> Any:
        blocks.append(len(blocks))
        if len(blocks) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        return block_pass.quantize_block(*given, **options)

    monkeypatch.setattr(quantization, "quantize_block", quantize_block)
    chosen, samples = load_recipe(None, RECIPES["rtn"]), samples_for(CHATGLM2)

    def attempt(out: Path) -> object:
        if verb == "run":
            return api.run(CHATGLM2, chosen, out=out)
        return api.quantize(CHATGLM2, chosen, samples, out=out)

    with pytest.raises(DeviceError, match=r"too little memory: CUDA out of memory. Tried to allocate 2.00 GiB.\n"):
        attempt(tmp_path / "out")
    assert (tmp_path / "out.partial").is_dir()
    attempt(tmp_path / "out")
    assert len(blocks) == 1 + open_checkpoint(CHATGLM2).config.num_hidden_layers
    assert not (tmp_path / "out.partial").exists()


def test_the_simulated_gpu_refuses_what_a_real_one_refuses() -> None:
    with simulated_gpu():
        there, here = torch.ones(2, 2).to(GPU), torch.ones(2, 2)
        for mixing in (lambda: there + here, lambda: here @ there, lambda: here[there.long()]):
            with pytest.raises(AssertionError, match="two devices"):
                mixing()
        with pytest.raises(RuntimeError):
            there.numpy()
        assert torch.equal((there + there[torch.tensor([0, 1])]).to("cpu"), here + here)
