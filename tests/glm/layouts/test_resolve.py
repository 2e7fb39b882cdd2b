"""Layouts: names and rows against the golden checkpoints, refusals, and configs that transformers loads."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.errors import CheckpointError
from glmquant.glm.hf_config import to_hf_config
from glmquant.glm.layouts.layout import Layout, RowScales
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.glm.names import canonical_shapes
from tests.hints.follow import follows
from tests.support.golden import directory, published_config

CONFIG_PATH = Path("model/config.json")

GLM: dict[str, Any] = {
    "model_type": "glm",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.5,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
}


def resolve(config: dict[str, Any], **options: Any) -> Layout:
    return resolve_layout(config, config_path=CONFIG_PATH, **options)


@pytest.mark.parametrize("name", ["chatglm2-tiny", "chatglm3-tiny"])
def test_native_sources_cover_every_published_tensor(name: str) -> None:
    index = json.loads((directory(name) / "pytorch_model.bin.index.json").read_text())
    published = set(index["weight_map"])
    layout = resolve(published_config(name), tensor_names=published)
    assert {source.name for source in layout.sources.values()} | layout.ignored == published
    assert layout.config.family == name.removesuffix("-tiny")


def test_native_sources_have_canonical_names_and_shapes() -> None:
    layout = resolve(published_config())
    shapes = {}
    for name, source in layout.sources.items():
        start, stop = source.rows or (0, source.shape[0])
        shapes[name] = (stop - start, *source.shape[1:])
    assert shapes == canonical_shapes(layout.config)
    assert list(shapes) == list(canonical_shapes(layout.config))


def test_query_key_value_rows_are_in_that_order() -> None:
    sources = resolve(published_config()).sources
    fused = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
    rows = [sources[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert [(source.name, source.shape, source.rows) for source in rows] == [
        (fused, (256, 128), (0, 128)),
        (fused, (256, 128), (128, 192)),
        (fused, (256, 128), (192, 256)),
    ]


def test_chatglm2_shape_and_constants() -> None:
    config = resolve(published_config()).config
    assert (config.architecture, config.hidden_size, config.intermediate_size) == ("glm", 128, 352)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rotary_dim) == (
        4,
        2,
        32,
        16,
    )
    assert (config.rope_theta, config.position_divisor, config.rms_norm_eps) == (10000.0, 1.0, 1e-05)
    assert (config.eos_token_ids, config.pad_token_id, config.float_dtype) == ((2,), 0, "float16")


@pytest.mark.parametrize(
    ("path", "theta", "divisor"),
    [
        ("THUDM/chatglm2-6b-32k", 10000.0, 50.0),
        ("THUDM/chatglm3-6b-32k", 500000.0, 1.0),
        ("THUDM/glm-4-9b-chat", 500000.0, 1.0),
        ("me/chatglm2-6b-32k-tuned", 10000.0, 50.0),
    ],
)
def test_rope_ratio_acts_by_lineage(path: str, theta: float, divisor: float) -> None:
    config = resolve(published_config(_name_or_path=path, rope_ratio=50, eos_token_id=2, pad_token_id=0)).config
    assert (config.rope_theta, config.position_divisor) == (theta, divisor)


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("THUDM/chatglm2-6b-int4", "chatglm2"),
        ("ZhipuAI/ChatGLM3-6B-Base", "chatglm3"),
        ("THUDM/codegeex2-6b", "codegeex2"),
        ("zai-org/glm-4-9b-chat-1m", "glm-4"),
    ],
)
def test_lineage_from_the_name(path: str, family: str) -> None:
    assert resolve(published_config(_name_or_path=path)).config.family == family


@pytest.mark.parametrize("path", [None, "", "./out", "THUDM/chatglm-6b", "my-chatglm2-and-chatglm3-merge", 7])
@follows("say which it is by the recipe's key model.family, for example model.family={}")
def test_lineage_is_never_guessed(path: object) -> None:
    config = published_config(_name_or_path=path)
    with pytest.raises(CheckpointError, match=r"model\.family=chatglm3") as caught:
        resolve(config)
    assert "--" not in str(caught.value), "the library knows no flags"
    assert "config.json, _name_or_path" in str(caught.value)
    assert resolve(config, family="chatglm3").config.family == "chatglm3"


def test_a_family_that_contradicts_the_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"model\.family"):
        resolve(published_config(), family="chatglm3")
    with pytest.raises(CheckpointError, match="one of chatglm2"):
        resolve(published_config(_name_or_path=""), family="glm-4-0414")


REFUSED_NATIVE = {
    "original_rope": False,
    "rmsnorm": False,
    "post_layer_norm": False,
    "apply_residual_connection_post_layernorm": True,
    "add_bias_linear": True,
    "multi_query_attention": False,
    "interleaved_qkv": True,
    "pre_seq_len": 128,
    "quantization_bit": 3,
    "quantization_embeddings": True,
    "position_encoding_2d": True,
    "vision_config": {"hidden_size": 8},
    "tie_word_embeddings": "yes",
    "num_layers": 10**9,
    "hidden_size": -4,
    "ffn_hidden_size": 352.0,
    "num_attention_heads": True,
    "multi_query_group_num": 3,
    "kv_channels": 30,
    "padded_vocab_size": "2112",
    "layernorm_epsilon": float("nan"),
    "rope_ratio": 0,
    "seq_length": None,
    "eos_token_id": [],
    "pad_token_id": 2112,
    "torch_dtype": "int8",
}


@pytest.mark.parametrize("field", REFUSED_NATIVE)
def test_native_fields_are_checked(field: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve(published_config(**{field: REFUSED_NATIVE[field]}))
    assert f"model/config.json, {field}" in str(caught.value)


REFUSED_GLM = {
    "hidden_act": "gelu",
    "head_dim": 15,
    "num_key_value_heads": 3,
    "partial_rotary_factor": 0.2,
    "rope_theta": float("inf"),
    "rope_parameters": [1],
    "eos_token_id": 64,
    "num_hidden_layers": None,
}


@pytest.mark.parametrize("field", REFUSED_GLM)
def test_glm_fields_are_checked(field: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve(GLM | {field: REFUSED_GLM[field]})
    assert f"model/config.json, {field}" in str(caught.value)


@pytest.mark.parametrize("section", ["rope_scaling", "rope_parameters"])
def test_rope_scaling_kinds(section: str) -> None:
    assert resolve(GLM | {section: {"rope_type": "default"}}).config.position_divisor == 1.0
    assert resolve(GLM | {section: {"type": "linear", "factor": 8}}).config.position_divisor == 8.0
    with pytest.raises(CheckpointError, match="default, linear"):
        resolve(GLM | {section: {"rope_type": "yarn", "factor": 8}})


def test_rope_said_twice_must_agree() -> None:
    with pytest.raises(CheckpointError, match="rope_theta is 500"):
        resolve(GLM | {"rope_parameters": {"rope_theta": 7.0}})


@pytest.mark.parametrize("model_type", ["llama", None, 3, ["glm"]])
def test_other_model_types_are_refused(model_type: object) -> None:
    with pytest.raises(CheckpointError, match="chatglm, glm, glm4"):
        resolve(GLM | {"model_type": model_type})


def test_a_tied_head_is_the_embedding() -> None:
    layout = resolve(GLM | {"tie_word_embeddings": True}, tensor_names=["lm_head.weight", "model.rotary_emb.inv_freq"])
    assert layout.sources["lm_head.weight"].name == "model.embed_tokens.weight"
    assert layout.ignored == {"lm_head.weight", "model.rotary_emb.inv_freq"}
    native = resolve(published_config(tie_word_embeddings=True))
    assert native.sources["lm_head.weight"].name == "transformer.embedding.word_embeddings.weight"
    both = resolve(published_config(tie_word_embeddings=True), tensor_names=["transformer.output_layer.weight"])
    assert "transformer.output_layer.weight" in both.ignored


@pytest.mark.parametrize("model_type", ["glm", "glm4"])
def test_canonical_names_are_those_of_transformers(model_type: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    layout = resolve(GLM | {"model_type": model_type, "attention_bias": True})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**to_hf_config(layout.config)))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == canonical_shapes(layout.config)


@pytest.mark.parametrize("divisor", [1.0, 50.0])
def test_a_written_config_reads_back(divisor: float) -> None:
    config = replace(resolve(published_config()).config, position_divisor=divisor, family="glm")
    written = json.loads(json.dumps(to_hf_config(config)))
    assert resolve(written).config == config


@pytest.mark.parametrize("bits", [4, 8])
def test_the_publishers_own_quantization_is_located(bits: int) -> None:
    layout = resolve(published_config(quantization_bit=bits))
    at, to = "transformer.encoder.layers.2.", "model.layers.2."
    key = layout.sources[f"{to}self_attn.k_proj.weight"]
    assert (key.shape, key.rows) == ((256, 128 * bits // 8), (128, 192))
    assert key.scales == RowScales(f"{at}self_attention.query_key_value.weight_scale", bits)
    down = layout.sources[f"{to}mlp.down_proj.weight"]
    assert (down.name, down.shape) == (f"{at}mlp.dense_4h_to_h.weight", (128, 352 * bits // 8))
    assert down.scales == RowScales(f"{at}mlp.dense_4h_to_h.weight_scale", bits)
    float_sources = [name for name, source in layout.sources.items() if source.scales is None]
    linears = [name for name in layout.sources if "_proj.weight" in name]
    assert sorted(float_sources + linears) == sorted(layout.sources)


@pytest.mark.parametrize("bits", [0, None])
def test_no_quantization_bits_mean_float(bits: int | None) -> None:
    assert resolve(published_config(quantization_bit=bits)).sources == resolve(published_config()).sources


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["glm", "linear"])
    ),
    lambda values: st.one_of(st.lists(values, max_size=3), st.dictionaries(st.text(max_size=8), values, max_size=3)),
    max_leaves=4,
)


@given(st.sampled_from([published_config(), GLM, GLM | {"model_type": "glm4", "rope_scaling": {}}]), st.data())
def test_any_field_gives_a_layout_or_one_error(config: dict[str, Any], data: st.DataObject) -> None:
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(config)), JSON, max_size=3))
    with contextlib.suppress(CheckpointError):
        found = resolve(config | changed).config
        assert resolve(to_hf_config(found)).config == replace(
            found, family="glm-4-0414" if found.sandwich_norms else "glm"
        )
