"""Samples are tokens; the float model runs for the ranges of a quantized KV cache alone."""

from pathlib import Path

import pytest
import torch

from glmquant import api
from glmquant.data.calibration import CalibrationSet
from glmquant.glm.parts import Context
from glmquant.glm.parts.attention import split_heads
from glmquant.glm.rotary import rotary
from glmquant.quantization import calibrate as module
from glmquant.quantization.calibrate import key_value_ranges
from glmquant.recipe.load import load_recipe
from glmquant.store.checkpoint import open_checkpoint
from tests.support.blocks import block_forward
from tests.support.paths import CHATGLM2

FEW = {"calibration.num_samples": 3, "calibration.seq_len": 24}


def test_ranges_are_those_of_the_plain_forward() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    config = checkpoint.config
    tokens = torch.randint(0, 2000, (5, 24), generator=torch.Generator().manual_seed(0))
    ranges = key_value_ranges(checkpoint, CalibrationSet(tokens, (), "", 0))
    x = checkpoint.embedding()[tokens].float()
    rope = rotary(config, torch.arange(24).unsqueeze(0))
    assert len(ranges) == config.num_hidden_layers
    for layer, seen in enumerate(ranges):
        block = checkpoint.block(layer)
        qkv = block.linears()["self_attn.qkv_proj"](block.attention.read(x, config))
        _, key, value = split_heads(qkv, block.attention, Context(config, rope))
        torch.testing.assert_close(seen.key_absmax_CE, key.abs().amax((0, 1)))
        torch.testing.assert_close(seen.value_absmax_CE, value.abs().amax((0, 1)))
        x = block_forward(x, block, config, rope)


@pytest.mark.parametrize("kv_cache", ["float", "int8"])
def test_the_float_model_runs_only_for_a_quantized_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kv_cache: str
) -> None:
    walked: list[str] = []
    walk = module.walk
    monkeypatch.setattr(module, "walk", lambda *given, **named: (walked.append("walk"), walk(*given, **named)))
    recipe = load_recipe("int4-g128-gptq", {**FEW, "export.kv_cache": kv_cache})
    calibration = api.calibrate(CHATGLM2, recipe, out=tmp_path / "out")
    assert bool(walked) == (kv_cache == "int8")
    assert len(calibration.key_values) == (open_checkpoint(CHATGLM2).config.num_hidden_layers if walked else 0)


def test_bfloat16_products_change_ranges_little() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    tokens = torch.randint(0, 2000, (4, 32), generator=torch.Generator().manual_seed(1))
    exact, rounded = (
        key_value_ranges(checkpoint, CalibrationSet(tokens, (), "", 0), dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    for one, other in zip(exact, rounded, strict=True):
        torch.testing.assert_close(other.key_absmax_CE, one.key_absmax_CE, rtol=0.05, atol=0.02)
        assert not torch.equal(other.key_absmax_CE, one.key_absmax_CE)
