"""Multi-head latent attention, expanded (``Glm4MoeLiteAttention`` of transformers; DeepSeek-V2, arXiv:2405.04434, 2.1).

Queries come from one latent, keys and values from another; one rotating key is shared by all heads. The published
heads have their rotating dimensions last; inside they stand first, as in every other GLM, which changes no score.

Shape suffixes: B batch, T tokens, H heads, E head size, M rows of a linear layer, K columns of one, L a latent's size.
"""

from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from glmquant.glm.config import GlmConfig, LatentConfig, LinearGroup
from glmquant.glm.equalization import column_factors, column_sizes, divide_rows, equalize_norm, multiply_columns
from glmquant.glm.linear import Linear
from glmquant.glm.parts.attend import attend
from glmquant.glm.parts.base import Context, Part, PartKind, group_in, modules_in
from glmquant.glm.rotary import rms_norm, rotate

DOWN_TO_LATENTS, QUERY, KEY_VALUE, OUTPUT = "qkv_a_proj", "q_b_proj", "kv_b_proj", "o_proj"
QUERY_NORM, KEY_VALUE_NORM = "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm"

LATENT_EPS: Final = 1e-6
"""Of the latents' norms, whatever the configuration says of the others (``Glm4MoeLiteRMSNorm``'s default)."""


class LatentAttention(PartKind):
    """Both latents; queries; keys and values; the output.

    What stands before the linear layers:

        qkv_a_proj   hidden
        q_b_proj     query latent, key and value latent, rotating key
        kv_b_proj    key and value latent, rotating key, queries
        o_proj       the heads' values
    """

    scope = "self_attn"
    input_norm = "input_layernorm"
    output_norm = "post_self_attn_layernorm"
    mixes_tokens_after = 2

    def groups(self, config: GlmConfig, layer: int) -> tuple[LinearGroup, ...]:
        latent, hidden = _latent(config), config.hidden_size

        def group(name: str, modules: tuple[str, ...], rows: tuple[int, ...], columns: int, bias: bool) -> LinearGroup:
            return LinearGroup(
                group_in(self.scope, layer, name), modules_in(self.scope, layer, modules), rows, columns, bias=bias
            )

        down_rows = (latent.query_rank, latent.key_value_rank + config.rotary_dim)
        rows_of_both = config.num_attention_heads * (latent.still_dim + config.head_dim)
        return (
            group(DOWN_TO_LATENTS, ("q_a_proj", "kv_a_proj_with_mqa"), down_rows, hidden, config.attention_bias),
            group(QUERY, (QUERY,), (config.query_rows,), latent.query_rank, False),
            group(KEY_VALUE, (KEY_VALUE,), (rows_of_both,), latent.key_value_rank, False),
            group(OUTPUT, (OUTPUT,), (hidden,), config.query_rows, config.attention_bias),
        )

    def gain_sizes(self, config: GlmConfig) -> dict[str, int]:
        latent = _latent(config)
        own = {QUERY_NORM: latent.query_rank, KEY_VALUE_NORM: latent.key_value_rank}
        return own | super().gain_sizes(config)

    def width(self, step: int, config: GlmConfig, layer: int) -> int:
        latent = _latent(config)
        carried = latent.key_value_rank + config.rotary_dim
        added = {1: latent.query_rank, 2: config.query_rows}
        return carried + added[step] if step in added else super().width(step, config, layer)

    def between(self, step: int, output: Tensor, x: Tensor, part: Part, context: Context) -> Tensor:
        config, latent = context.config, _latent(context.config)
        if step == 0:
            query_BTL, rest = output.split([latent.query_rank, latent.key_value_rank + config.rotary_dim], dim=-1)
            both_BTL, key = rest.split([latent.key_value_rank, config.rotary_dim], dim=-1)
            query_BTL = rms_norm(query_BTL, part.gains[QUERY_NORM], LATENT_EPS)
            return torch.cat([query_BTL, rms_norm(both_BTL, part.gains[KEY_VALUE_NORM], LATENT_EPS), key], dim=-1)
        if step == 1:
            return torch.cat([x[..., latent.query_rank :], output], dim=-1)
        query, key, value = _heads(output, x, config)
        query, key = (rotate(each, context.rope) for each in (query, key))
        if context.on_key_values is not None:
            context.on_key_values(key, value)
        return attend(query, key, value, context.mask)

    def graph(self, step: int, output: Any, part: Any, operators: Any, context: Any) -> Any:
        latent, waiting = _latent(operators.config), context.carried
        if step == 0:
            sizes = [latent.query_rank, latent.key_value_rank, operators.config.rotary_dim]
            query, both, waiting["key"] = operators.split(output, sizes)
            waiting["latent"] = operators.norm(both, part.gains[KEY_VALUE_NORM], LATENT_EPS)
            return operators.norm(query, part.gains[QUERY_NORM], LATENT_EPS)
        if step == 1:
            waiting["query"] = output
            return waiting["latent"]
        count = operators.config.num_attention_heads
        keys, values = operators.split(output, [count * latent.still_dim, operators.config.query_rows])
        heads = waiting["query"], operators.shared_key(waiting["key"], keys, count), values
        attended, key, value = operators.attention(heads, context.past, context.layer)
        context.present.append((key, value))
        return attended

    def exported(self, name: str, linear: Linear, config: GlmConfig) -> Linear:
        """Rows of queries with what rotates first in each head; rows of keys before those of values."""
        latent, heads = _latent(config), config.num_attention_heads
        if name == QUERY:
            rows_HE = torch.arange(config.query_rows).view(heads, config.head_dim)
            return linear.reordered(rows_HE.roll(config.rotary_dim, dims=1).flatten())
        if name == KEY_VALUE:
            rows_HE = torch.arange(linear.weight.shape[0]).view(heads, latent.still_dim + config.head_dim)
            keys, values = rows_HE.split([latent.still_dim, config.head_dim], dim=1)
            return linear.reordered(torch.cat([keys.flatten(), values.flatten()]))
        return linear

    def equalize(self, part: Part, config: GlmConfig) -> Part:
        """The input norm and both latents' with what reads them; values with the output's columns that read them."""
        part = super().equalize(part, config)
        for norm, name in ((QUERY_NORM, QUERY), (KEY_VALUE_NORM, KEY_VALUE)):
            gain, linear = equalize_norm(part.gains[norm], part.linears[name])
            part = replace(part.with_linears({name: linear}), gains={**part.gains, norm: gain})
        return _value_to_output(part, config)


def _latent(config: GlmConfig) -> LatentConfig:
    assert config.latent is not None
    return config.latent


def _heads(key_value_BTM: Tensor, x: Tensor, config: GlmConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values ``[B, T, H, E]``, what rotates first in each head; nothing is rotated yet.

    Args:
        x: what stands before ``kv_b_proj``.
    """
    latent, heads = _latent(config), config.num_attention_heads
    _, key_BTR, query = x.split([latent.key_value_rank, config.rotary_dim, config.query_rows], dim=-1)
    query = query.unflatten(-1, (heads, -1)).roll(config.rotary_dim, dims=-1)
    still, value = key_value_BTM.unflatten(-1, (heads, -1)).split([latent.still_dim, config.head_dim], dim=-1)
    rotating = key_BTR.unsqueeze(-2).expand(*still.shape[:-1], -1)
    return query, torch.cat([rotating, still], dim=-1), value


def _value_to_output(part: Part, config: GlmConfig) -> Part:
    """Value rows divided, and the output's columns that read them multiplied, by the same factors."""
    both, output = part.linears[KEY_VALUE], part.linears[OUTPUT]
    factors_K = column_factors(column_sizes(output.dense()))
    heads, each = config.num_attention_heads, _latent(config).still_dim + config.head_dim
    rows_HE = torch.arange(heads * each).view(heads, each)
    values = rows_HE[:, -config.head_dim :].flatten()
    return part.with_linears(
        {KEY_VALUE: divide_rows(both, values, factors_K), OUTPUT: multiply_columns(output, factors_K)}
    )
