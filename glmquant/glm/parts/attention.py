"""Grouped-query attention with partial rotation (``GlmAttention`` and ``Glm4MoeAttention`` of transformers).

Shape suffixes: B batch, T tokens, H query heads, C key/value heads, E head size, M rows of the fused q, k, v.
"""

from typing import Any

from torch import Tensor

from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.equalization import column_factors, column_sizes, divide_rows, multiply_columns
from glmquant.glm.parts.attend import attend
from glmquant.glm.parts.base import Context, Part, PartKind, group_in, modules_in
from glmquant.glm.rotary import rms_norm, rotate

QKV, OUTPUT = "qkv_proj", "o_proj"
QUERY_NORM, KEY_NORM = "self_attn.q_norm", "self_attn.k_norm"


class GroupedQueryAttention(PartKind):
    """Fused q, k, v; attention; the output."""

    scope = "self_attn"
    input_norm = "input_layernorm"
    output_norm = "post_self_attn_layernorm"
    mixes_tokens_after = 0

    def groups(self, config: GlmConfig, layer: int) -> tuple[LinearGroup, ...]:
        rows = (config.query_rows, config.key_value_rows, config.key_value_rows)
        members = modules_in(self.scope, layer, ("q_proj", "k_proj", "v_proj"))
        output = modules_in(self.scope, layer, (OUTPUT,))
        name = group_in(self.scope, layer, QKV)
        return (
            LinearGroup(name, members, rows, config.hidden_size, bias=config.attention_bias),
            LinearGroup(group_in(self.scope, layer, OUTPUT), output, (config.hidden_size,), config.query_rows),
        )

    def gain_sizes(self, config: GlmConfig) -> dict[str, int]:
        own = {QUERY_NORM: config.head_dim, KEY_NORM: config.head_dim} if config.qk_norm else {}
        return own | super().gain_sizes(config)

    def between(self, step: int, output: Tensor, x: Tensor, part: Part, context: Context) -> Tensor:
        query, key, value = split_heads(output, part, context)
        if context.on_key_values is not None:
            context.on_key_values(key, value)
        return attend(query, key, value, context.mask)

    def graph(self, step: int, output: Any, part: Any, operators: Any, context: Any) -> Any:
        attended, key, value = operators.attention(_normed_heads(output, part, operators), context.past, context.layer)
        context.present.append((key, value))
        return attended

    def equalize(self, part: Part, config: GlmConfig) -> Part:
        return _value_to_output(super().equalize(part, config), config)


def split_heads(qkv_BTM: Tensor, part: Part, context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Queries ``[B, T, H, E]``, keys and values ``[B, T, C, E]``; queries and keys are rotated."""
    config = context.config
    q, k, v = qkv_BTM.split([config.query_rows, config.key_value_rows, config.key_value_rows], dim=-1)
    query, key, value = (x.unflatten(-1, (-1, config.head_dim)) for x in (q, k, v))
    if config.qk_norm:
        query = rms_norm(query, part.gains[QUERY_NORM], config.rms_norm_eps)
        key = rms_norm(key, part.gains[KEY_NORM], config.rms_norm_eps)
    query, key = (rotate(x, context.rope, in_pairs=config.rotates_in_pairs) for x in (query, key))
    return query, key, value


def _normed_heads(qkv: Any, part: Any, operators: Any) -> Any:
    """One value of all three where heads are not normalized, else three."""
    if QUERY_NORM not in part.gains:
        return qkv
    config = operators.config
    query, key, value = operators.split(qkv, [config.query_rows, config.key_value_rows, config.key_value_rows])
    gains = part.gains[QUERY_NORM], part.gains[KEY_NORM]
    query, key = (operators.norm_heads(x, gain) for x, gain in zip((query, key), gains, strict=True))
    return query, key, value


def _value_to_output(part: Part, config: GlmConfig) -> Part:
    """Value rows divided, and the output's columns that read them multiplied, by the same factors.

    Query heads of a group read the same value channels, so their columns share a factor.
    """
    qkv, output = part.linears[QKV], part.linears[OUTPUT]
    shape = (config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads, config.head_dim)
    size_C = column_sizes(output.dense()).view(shape).square().mean(1).sqrt().flatten()
    factors_C = column_factors(size_C)
    factors_K = factors_C.view(shape[0], 1, shape[2]).expand(shape).flatten()
    values = slice(config.query_rows + config.key_value_rows, None)
    return part.with_linears({QKV: divide_rows(qkv, values, factors_C), OUTPUT: multiply_columns(output, factors_K)})
