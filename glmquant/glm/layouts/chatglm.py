"""``model_type: chatglm``: ChatGLM2, ChatGLM3, CodeGeeX2 and GLM-4 as their publisher writes them.

Field and tensor names are the publisher's (``configuration_chatglm.py`` and ``modeling_chatglm.py`` beside the weights
of THUDM/chatglm2-6b, chatglm3-6b and glm-4-9b). q, k and v are one matrix, its rows in that order; gate and up another.
"""

import logging
from collections.abc import Collection
from typing import Final, Literal

from glmquant.glm.config import Family, GlmConfig
from glmquant.glm.layouts.fields import MOST_LAYERS, Fields, float_dtype
from glmquant.glm.layouts.layout import Layout, RowScales, TensorSource
from glmquant.glm.layouts.lineage import Traces, lineage
from glmquant.glm.names import EMBEDDING, FINAL_NORM, HEAD, layer_prefix

log = logging.getLogger("glmquant.glm")

DIVIDES_POSITIONS: Final = ("chatglm2", "codegeex2")
"""Lineages whose ``rope_ratio`` divides positions; that of the others multiplies the base (CONTRACTS, section f)."""

ROPE_BASE: Final = 10000.0
SENTENCEPIECE_EOS: Final = (2,)
GLM4_EOS: Final = (151329, 151336, 151338)
GLM4_PAD: Final = 151329

_EMBEDDING = "transformer.embedding.word_embeddings.weight"
_HEAD = "transformer.output_layer.weight"
_FREQUENCIES = "transformer.rotary_pos_emb.inv_freq"
ROW_SCALES: Final = ".weight_scale"


def resolve(fields: Fields, family: Family | None, tensor_names: Collection[str] | None, traces: Traces) -> Layout:
    """The layout of a native checkpoint; see :func:`glmquant.glm.layouts.resolve.resolve_layout`."""
    _refuse_other_models(fields)
    _refuse_variants(fields)
    config = _config(fields, lineage(fields, family, traces))
    bits = _quantization_bits(fields, config)
    if bits is not None and tensor_names is not None and not any(name.endswith(ROW_SCALES) for name in tensor_names):
        log.warning("quantization_bit is %d, and no weight has scales: they are read as the floats they are", bits)
        bits = None
    ignored = {_FREQUENCIES, _HEAD} if config.tie_word_embeddings else {_FREQUENCIES}
    return Layout(config, _sources(config, bits), frozenset(ignored))


def native_sources(config: GlmConfig) -> dict[str, TensorSource]:
    """Where canonical tensors lie in the publisher's layout of a float model, whichever layout it came in."""
    return _sources(config, None)


def _quantization_bits(fields: Fields, config: GlmConfig) -> Literal[4, 8] | None:
    """Bits of the publisher's own row-wise quantization of the blocks' linear layers; None for float weights."""
    if not fields.raw("quantization_bit"):
        return None
    bits = fields.integer("quantization_bit", low=1, high=8)
    if bits == 8:
        return 8
    if bits != 4:
        raise fields.error("quantization_bit", "4 or 8, or absent for float weights")
    if config.hidden_size % 2 or config.query_rows % 2 or config.intermediate_size % 2:
        raise fields.error(
            "quantization_bit", "8 where a linear layer has an odd number of columns: two codes share a byte"
        )
    return 4


def _refuse_other_models(fields: Fields) -> None:
    if "position_encoding_2d" in fields or "inner_hidden_size" in fields:
        raise fields.error("position_encoding_2d", "absent: ChatGLM-6B, the first of its line, is another architecture")
    if "vision_config" in fields:
        raise fields.error("vision_config", "absent: models that see images (GLM-4V) are not supported")


def _refuse_variants(fields: Fields) -> None:
    fields.refuse_unless("original_rope", True, "the other rotary variant is not implemented")
    fields.refuse_unless("rmsnorm", True, "LayerNorm is not implemented")
    fields.refuse_unless("post_layer_norm", True, "a model without a final norm is not implemented")
    fields.refuse_unless(
        "apply_residual_connection_post_layernorm", False, "residuals around the norm are not implemented"
    )
    fields.refuse_unless("add_bias_linear", False, "biases outside q, k and v are not implemented")
    fields.refuse_unless("multi_query_attention", True, "per-head interleaved q, k, v rows are not implemented")
    fields.refuse_unless("interleaved_qkv", False, "interleaved q, k, v rows are not implemented")
    if fields.raw("pre_seq_len"):
        raise fields.error(
            "pre_seq_len",
            "absent: a prefix that P-Tuning trained is no part of the weights, and nothing here feeds it to the model",
            "give the base model, whose weights P-Tuning leaves as they are; or train with LoRA, which can be put into "
            "them. Where prefix_encoder was never trained, set pre_seq_len to null",
        )
    fields.refuse_unless("quantization_embeddings", False, "a quantized embedding is not implemented")


def _config(fields: Fields, family: Family) -> GlmConfig:
    heads = fields.integer("num_attention_heads")
    groups = fields.integer("multi_query_group_num")
    head_dim = fields.integer("kv_channels")
    vocabulary = fields.integer("padded_vocab_size")
    if heads % groups:
        raise fields.error("multi_query_group_num", f"a divisor of num_attention_heads, {heads}")
    if head_dim % 4:
        raise fields.error("kv_channels", "a multiple of 4: half of each head rotates, in pairs")
    ratio = fields.number("rope_ratio", 1.0, high=1e9)
    divides = family in DIVIDES_POSITIONS
    return GlmConfig(
        architecture="glm",
        family=family,
        num_hidden_layers=fields.integer("num_layers", high=MOST_LAYERS),
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("ffn_hidden_size"),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
        rotary_dim=head_dim // 2,
        rope_theta=ROPE_BASE if divides else ROPE_BASE * ratio,
        position_divisor=ratio if divides else 1.0,
        rms_norm_eps=fields.number("layernorm_epsilon", high=1.0),
        vocab_size=vocabulary,
        max_position_embeddings=fields.integer("seq_length"),
        attention_bias=fields.flag("add_qkv_bias"),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        bos_token_id=fields.token_id("bos_token_id", vocabulary),
        eos_token_ids=fields.token_ids(
            "eos_token_id", vocabulary, GLM4_EOS if family == "glm-4" else SENTENCEPIECE_EOS
        ),
        pad_token_id=fields.integer("pad_token_id", GLM4_PAD if family == "glm-4" else 0, low=0, high=vocabulary - 1),
        float_dtype=float_dtype(fields, "float16"),
    )


def _sources(config: GlmConfig, bits: Literal[4, 8] | None) -> dict[str, TensorSource]:
    vocabulary = (config.vocab_size, config.hidden_size)
    sources = {EMBEDDING: TensorSource(_EMBEDDING, vocabulary)}
    for layer in range(config.num_hidden_layers):
        sources |= _layer_sources(config, layer, bits)
    sources[FINAL_NORM] = TensorSource("transformer.encoder.final_layernorm.weight", (config.hidden_size,))
    sources[HEAD] = TensorSource(_EMBEDDING if config.tie_word_embeddings else _HEAD, vocabulary)
    return sources


def _layer_sources(config: GlmConfig, layer: int, bits: Literal[4, 8] | None) -> dict[str, TensorSource]:
    to, at = layer_prefix(layer), f"transformer.encoder.layers.{layer}."
    hidden, inner = config.hidden_size, config.intermediate_size

    def linear(name: str, rows: int, columns: int, taken: tuple[int, int] | None = None) -> TensorSource:
        if bits is None:
            return TensorSource(f"{at}{name}.weight", (rows, columns), taken)
        scales = RowScales(f"{at}{name}{ROW_SCALES}", bits)
        return TensorSource(f"{at}{name}.weight", (rows, columns * bits // 8), taken, scales)

    sources = {f"{to}input_layernorm.weight": TensorSource(f"{at}input_layernorm.weight", (hidden,))}
    fused, fused_rows, start = "self_attention.query_key_value", config.query_rows + 2 * config.key_value_rows, 0
    for part, count in (("q", config.query_rows), ("k", config.key_value_rows), ("v", config.key_value_rows)):
        taken, name = (start, start + count), f"{to}self_attn.{part}_proj"
        sources[f"{name}.weight"] = linear(fused, fused_rows, hidden, taken)
        if config.attention_bias:
            sources[f"{name}.bias"] = TensorSource(f"{at}{fused}.bias", (fused_rows,), taken)
        start += count
    norm = "post_attention_layernorm.weight"
    return sources | {
        f"{to}self_attn.o_proj.weight": linear("self_attention.dense", hidden, config.query_rows),
        f"{to}{norm}": TensorSource(f"{at}{norm}", (hidden,)),
        f"{to}mlp.gate_up_proj.weight": linear("mlp.dense_h_to_4h", 2 * inner, hidden),
        f"{to}mlp.down_proj.weight": linear("mlp.dense_4h_to_h", hidden, inner),
    }
