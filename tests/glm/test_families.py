"""Every supported release, tiny, in exactly its publisher's layout: from its config and tensors to the right logits."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glmquant.glm.hf_config import to_hf_config
from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.glm.layouts.row_quantized import read_rows
from glmquant.glm.rotary import rotary
from tests.support.golden import published_config
from tests.support.whole_model import logits

HEADS, GROUPS, HEAD_DIM, HIDDEN, INNER, VOCABULARY, LAYERS = 4, 2, 32, 64, 96, 2112, 2


@dataclass(frozen=True)
class Release:
    """What sets a release apart in its ``config.json``."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float16
    bits: int = 0


NATIVE = [
    Release("THUDM/chatglm2-6b"),
    Release("THUDM/chatglm2-6b-32k", {"rope_ratio": 50}),
    Release("THUDM/chatglm2-6b-int4", {"quantization_bit": 4}, bits=4),
    Release("THUDM/chatglm2-6b-int8", {"quantization_bit": 8}, bits=8),
    Release("THUDM/codegeex2-6b", {"torch_dtype": "bfloat16"}, torch.bfloat16),
    Release("THUDM/chatglm3-6b"),
    Release("THUDM/chatglm3-6b-base", {"multi_query_group_num": 2}),
    Release("THUDM/chatglm3-6b-32k", {"rope_ratio": 50}),
    Release("THUDM/chatglm3-6b-128k", {"rope_ratio": 500, "seq_length": 131072}),
    Release("THUDM/glm-4-9b", {"layernorm_epsilon": 1.5625e-07, "torch_dtype": "bfloat16"}, torch.bfloat16),
    Release("THUDM/glm-4-9b-chat", {"rope_ratio": 500, "torch_dtype": "bfloat16"}, torch.bfloat16),
    Release("THUDM/glm-4-9b-chat-1m", {"rope_ratio": 10000, "multi_query_group_num": 4}),
]


def native_config(release: Release) -> dict[str, Any]:
    shape = {
        "num_layers": LAYERS, "hidden_size": HIDDEN, "ffn_hidden_size": INNER, "kv_channels": HEAD_DIM,
        "num_attention_heads": HEADS, "multi_query_group_num": GROUPS, "padded_vocab_size": VOCABULARY,
    }  # fmt: skip
    return published_config(_name_or_path=release.name, **{**shape, **release.fields})


def native_tensors(release: Release, groups: int) -> dict[str, Tensor]:
    """Random tensors under the publisher's names."""
    torch.manual_seed(11)
    fused = (HEADS + 2 * groups) * HEAD_DIM
    tensors: dict[str, Tensor] = {}

    def put(name: str, *shape: int, around: float = 0.0) -> None:
        tensors[f"transformer.{name}"] = (around + 0.2 * torch.randn(*shape)).to(release.dtype)

    put("embedding.word_embeddings.weight", VOCABULARY, HIDDEN)
    put("rotary_pos_emb.inv_freq", HEAD_DIM // 4)
    for i in range(LAYERS):
        at = f"encoder.layers.{i}"
        put(f"{at}.input_layernorm.weight", HIDDEN, around=1.0)
        put(f"{at}.self_attention.query_key_value.weight", fused, HIDDEN)
        put(f"{at}.self_attention.query_key_value.bias", fused)
        put(f"{at}.self_attention.dense.weight", HIDDEN, HEADS * HEAD_DIM)
        put(f"{at}.post_attention_layernorm.weight", HIDDEN, around=1.0)
        put(f"{at}.mlp.dense_h_to_4h.weight", 2 * INNER, HIDDEN)
        put(f"{at}.mlp.dense_4h_to_h.weight", HIDDEN, INNER)
    put("encoder.final_layernorm.weight", HIDDEN, around=1.0)
    put("output_layer.weight", VOCABULARY, HIDDEN)
    return quantized(tensors, release.bits) if release.bits else tensors


def quantized(tensors: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """The blocks' linears as the publisher quantizes them."""
    out = dict(tensors)
    for name, weight in tensors.items():
        if ".layers." in name and weight.dim() == 2:
            scale = (weight.float().abs().amax(1) / (2 ** (bits - 1) - 1)).half()
            codes = (weight.float() / scale.float()[:, None]).round().to(torch.int8)
            out[name] = codes if bits == 8 else (codes[:, ::2] << 4) | (codes[:, 1::2] & 15)
            out[f"{name}_scale"] = scale
    return out


def canonical(layout: Layout, published: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: read(source, published) for name, source in layout.sources.items()}


def read(source: TensorSource, published: dict[str, Tensor]) -> Tensor:
    stored = published[source.name]
    assert stored.shape == source.shape
    start, stop = source.rows or (0, source.shape[0])
    if source.scales is None:
        return stored[start:stop].float()
    return read_rows(stored[start:stop], published[source.scales.name][start:stop], source.scales.bits).dequantize()


def by_transformers(layout: Layout, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**to_hf_config(layout.config) | {"dtype": "float32", "torch_dtype": "float32"})
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found


@pytest.mark.parametrize("release", NATIVE, ids=lambda release: release.name)
def test_native_releases(release: Release) -> None:
    config = native_config(release)
    published = native_tensors(release, config["multi_query_group_num"])
    layout = resolve_layout(config, config_path=Path("config.json"), tensor_names=published)
    used = {source.name for source in layout.sources.values()}
    used |= {source.scales.name for source in layout.sources.values() if source.scales}
    assert used | layout.ignored == set(published)
    weights = canonical(layout, published)
    ids = torch.randint(0, VOCABULARY, (2, 20))
    torch.testing.assert_close(
        logits(weights, layout.config, ids), by_transformers(layout, weights, ids), atol=2e-4, rtol=1e-4
    )


HUGGING_FACE = [
    Release("THUDM/glm-4-9b-hf", {"model_type": "glm", "rope_theta": 10000.0}),
    Release("THUDM/glm-4-9b-chat-1m-hf", {"model_type": "glm", "rope_theta": 1e8, "num_key_value_heads": 4}),
    Release("THUDM/glm-edge-1.5b-chat", {"model_type": "glm", "tie_word_embeddings": True, "attention_bias": False}),
    Release("THUDM/GLM-4-9B-0414", {"model_type": "glm4", "attention_bias": True}),
    Release("THUDM/GLM-4-32B-0414", {"model_type": "glm4", "attention_bias": False, "num_key_value_heads": 1}),
    Release(
        "THUDM/GLM-Z1-9B-0414", {"model_type": "glm4", "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    ),
]


@pytest.mark.parametrize("release", HUGGING_FACE, ids=lambda release: release.name)
def test_hugging_face_releases(release: Release, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {
        "_name_or_path": release.name, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": HEAD_DIM, "vocab_size": VOCABULARY,
        "partial_rotary_factor": 0.5, "eos_token_id": [1, 2], "pad_token_id": 1, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128, "hidden_act": "silu", "torch_dtype": "float32",
    } | release.fields  # fmt: skip
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + (parameter.dim() == 1))
    ids = torch.randint(0, VOCABULARY, (2, 20))
    published = {name: tensor for name, tensor in model.state_dict().items() if name in dict(model.named_parameters())}
    layout = resolve_layout(config, config_path=Path("config.json"), tensor_names=published)
    assert {source.name for source in layout.sources.values()} == set(published)
    with torch.no_grad():
        expected = model(ids).logits
    torch.testing.assert_close(logits(canonical(layout, published), layout.config, ids), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "ratio", "angle"),
    [
        ("THUDM/chatglm2-6b-32k", 50, lambda position, i: position / 50 / 10000 ** (2 * i / 16)),
        ("THUDM/chatglm3-6b-32k", 50, lambda position, i: position / (10000 * 50) ** (2 * i / 16)),
        ("THUDM/glm-4-9b-chat", 500, lambda position, i: position / (10000 * 500) ** (2 * i / 16)),
    ],
)
def test_rotary_angles_by_the_published_formulas(name: str, ratio: int, angle: Any) -> None:
    config = native_config(Release(name, {"rope_ratio": ratio}))
    found = resolve_layout(config, config_path=Path("config.json")).config
    assert found.rotary_dim == 16
    positions = [0, 1, 2, 31, 1000]
    rope = rotary(found, torch.tensor([positions]))
    for t, position in enumerate(positions):
        for i in range(8):
            assert rope.cos_BTR[0, t, i].item() == pytest.approx(math.cos(angle(position, i)), abs=1e-4)
            assert rope.sin_BTR[0, t, i].item() == pytest.approx(math.sin(angle(position, i)), abs=1e-4)
