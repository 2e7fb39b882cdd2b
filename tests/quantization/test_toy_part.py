"""A part of one's own against arithmetic that shares no line with it, in float and with a cache in codes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import glmquant as gq
from glmquant.glm.config import GlmConfig
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import Checkpoint
from tests.test_toy_part import SETTINGS, VOCABULARY, model

__all__ = ["model"]  # a fixture

IDS = torch.randint(0, VOCABULARY, (11,), generator=torch.Generator().manual_seed(0))


def plain_logits(tensors: dict[str, Tensor], config: GlmConfig, ids: Tensor) -> Tensor:
    """``[T, V]``, a head and a token at a time, in float64."""
    weights = {name: tensor.double() for name, tensor in tensors.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[f"{name}.weight"]

    def turned(x: Tensor) -> Tensor:
        """``[T, heads, size]``, as complex numbers turned by their token's angles."""
        pairs = torch.view_as_complex(x[..., : config.rotary_dim].unflatten(-1, (-1, 2)).contiguous())
        speeds = config.rope_theta ** -(torch.arange(0, config.rotary_dim, 2).double() / config.rotary_dim)
        angles = torch.arange(len(x)).double()[:, None, None] * speeds
        rotated = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
        return torch.cat([rotated, x[..., config.rotary_dim :]], -1)

    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        read = norm(x, f"{at}.input_layernorm")
        query, key, value = (
            (read @ weights[f"{at}.self_attn.{n}_proj.weight"].T + weights[f"{at}.self_attn.{n}_proj.bias"]).unflatten(
                -1, (-1, config.head_dim)
            )
            for n in "qkv"
        )
        query, key = turned(query), turned(key)
        seen = torch.zeros_like(query)
        for head in range(config.num_attention_heads):
            shared = head * config.num_key_value_heads // config.num_attention_heads
            for token in range(len(ids)):
                scores = key[: token + 1, shared] @ query[token, head] / math.sqrt(config.head_dim)
                seen[token, head] = scores.softmax(0) @ value[: token + 1, shared]
        x = x + seen.flatten(1) @ weights[f"{at}.self_attn.o_proj.weight"].T
        read = norm(x, f"{at}.post_attention_layernorm")
        x = x + (read @ weights[f"{at}.mlp.up_proj.weight"].T).clamp(min=0) @ weights[f"{at}.mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ weights["lm_head.weight"].T


def shipped_logits(bundle: Path) -> Tensor:
    ids = IDS.numpy()[None]
    return torch.from_numpy(OnnxModel.open(bundle).forward(ids, np.ones_like(ids))[0]).double()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("profile", ["ort", "standard"])
def test_the_float_bundle_says_what_a_plain_loop_says(model: Checkpoint, profile: str, tmp_path: Path) -> None:
    options = {"rules": [], "export.profile": profile, "export.accuracy_level": 0, "export.dtype": "float32"}
    bundle = gq.export(model, gq.load_recipe(None, options), out=tmp_path / "onnx")
    expected = plain_logits(load_file(model.path / "model.safetensors"), model.config, IDS)
    assert relative_error(shipped_logits(bundle.path), expected) < 1e-5


def test_a_cache_in_codes_is_calibrated_and_forecast(model: Checkpoint, tmp_path: Path) -> None:
    recipe = gq.load_recipe(None, SETTINGS | {"export.profile": "ort", "export.kv_cache": "int8"})
    forecast = gq.inspect(model, recipe, predict=True).forecast
    assert forecast is not None
    assert [stage.name for stage in forecast.stages] == ["calibrate", "allocate", "quantize", "export"]
    calibration = gq.calibrate(model, recipe, out=tmp_path / "calibration")
    assert len(calibration.key_values) == model.config.num_hidden_layers
    quantized = gq.quantize(model, recipe, calibration, out=tmp_path / "quantized")
    bundle = gq.export(quantized, recipe, calibration, out=tmp_path / "onnx")
    with_float_cache = gq.export(quantized, gq.load_recipe(None, {"export.accuracy_level": 0}), out=tmp_path / "float")
    shipped, exact = shipped_logits(bundle.path), shipped_logits(with_float_cache.path)
    print(
        "E",
        relative_error(shipped, exact),
        relative_error(shipped, plain_logits(load_file(model.path / "model.safetensors"), model.config, IDS)),
    )
    assert 0 < relative_error(shipped, exact) < 0.02
    expected = plain_logits(load_file(model.path / "model.safetensors"), model.config, IDS)
    assert relative_error(shipped, expected) < 0.2
