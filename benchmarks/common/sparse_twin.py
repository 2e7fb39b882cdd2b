"""A GLM with routed experts as llama.cpp has it: the same weights in a float16 GGUF of its own architecture.

    python -m benchmarks.common.sparse_twin MODEL OUT.gguf

GLM-4.7-Flash (``glm4_moe_lite``) is ``deepseek2`` there, GLM-4.5-Air (``glm4_moe``) is ``glm4moe``. Names and
metadata are those of llama.cpp's ``convert_hf_to_gguf.py``. Latent attention is absorbed, as there: keys and values
stay in their latent, and the cache holds that alone. One matrix of all experts is in memory at a time.

Shape suffixes: H heads, X experts, N rows, K columns, L a latent's size.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from benchmarks.common.llama_twin import write_token_numbers
from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.parts.latent_attention import KEY_VALUE, KEY_VALUE_NORM, QUERY_NORM
from glmquant.glm.parts.routing import DOWN, GATE_UP, RoutedExperts
from glmquant.store.checkpoint import Checkpoint, open_checkpoint

CONTEXT = 8192
ARCHITECTURES = {"glm4_moe_lite": "deepseek2", "glm4_moe": "glm4moe"}
MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
"""GGUF's name of a block's linear layer."""
ROUTER = "ffn_gate_inp"


@dataclass(frozen=True)
class Stored:
    """A tensor of the file; ``load`` reads it. Vectors and the router are float32, all else float16."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32 if len(self.shape) == 1 or ROUTER in self.name else np.float16)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def array(self) -> np.ndarray:
        return self.load().contiguous().float().numpy().astype(self.dtype, copy=False)


def stored(name: str, tensor: Tensor) -> Stored:
    return Stored(name, tuple(tensor.shape), lambda: tensor)


def tensors(checkpoint: Checkpoint) -> Iterator[Stored]:
    config = checkpoint.config
    ends = (config.vocab_size, config.hidden_size)
    yield Stored("token_embd.weight", ends, checkpoint.embedding)
    for layer in range(config.num_hidden_layers):
        yield from block_tensors(checkpoint.block(layer), config, layer)
    yield stored("output_norm.weight", checkpoint.final_norm())
    yield Stored("output.weight", ends, lambda: checkpoint.head().dense())


def block_tensors(block: Block, config: GlmConfig, layer: int) -> Iterator[Stored]:
    at = f"blk.{layer}"
    gains = {"attn_norm": block.attention.gains["input_layernorm"]}
    after_attention = "ffn_norm" if config.latent is not None else "post_attention_norm"
    gains[after_attention] = block.mlp.gains["post_attention_layernorm"]
    if config.latent is not None:
        gains |= {"attn_q_a_norm": block.attention.gains[QUERY_NORM]}
        gains |= {"attn_kv_a_norm": block.attention.gains[KEY_VALUE_NORM]}
    for name, gain in gains.items():
        yield stored(f"{at}.{name}.weight", gain)
    for part in block.parts:
        for group in part.kind.groups(config, layer):
            linear = part.linears[group.within(part.kind.scope)]
            if group.within_layer == f"self_attn.{KEY_VALUE}":
                yield from _absorbed(linear.dense(), config, at)
                continue
            rows = linear.dense().split(list(group.member_rows))
            biases = [None] * len(rows) if linear.bias_N is None else linear.bias_N.split(list(group.member_rows))
            for member, weight, bias in zip(group.members, rows, biases, strict=True):
                name = MODULES[member.split(".", 3)[3]]
                yield stored(f"{at}.{name}.weight", weight)
                if bias is not None:
                    yield stored(f"{at}.{name}.bias", bias)
        if part.experts is not None:
            yield from _experts(part.experts, config, at)


def _absorbed(weight_NK: Tensor, config: GlmConfig, at: str) -> Iterator[Stored]:
    """What makes keys of the latent, transposed, for it is multiplied into queries; and what makes values of it."""
    assert config.latent is not None
    still, value = config.latent.still_dim, config.head_dim
    keys_HNL, values_HNL = weight_NK.view(config.num_attention_heads, still + value, -1).split([still, value], dim=1)
    yield stored(f"{at}.attn_k_b.weight", keys_HNL.transpose(1, 2))
    yield stored(f"{at}.attn_v_b.weight", values_HNL)


def _experts(experts: RoutedExperts, config: GlmConfig, at: str) -> Iterator[Stored]:
    assert config.experts is not None
    inner, hidden = config.experts.intermediate_size, config.hidden_size
    yield stored(f"{at}.{ROUTER}.weight", experts.router.weight_XD)
    yield stored(f"{at}.exp_probs_b.bias", experts.router.bias_X)

    def every(linear: str, rows: slice) -> Callable[[], Tensor]:
        return lambda: torch.stack([experts.load(each, linear).dense()[rows].half() for each in range(experts.count)])

    gate, up = slice(0, inner), slice(inner, 2 * inner)
    yield Stored(f"{at}.ffn_gate_exps.weight", (experts.count, inner, hidden), every(GATE_UP, gate))
    yield Stored(f"{at}.ffn_up_exps.weight", (experts.count, inner, hidden), every(GATE_UP, up))
    yield Stored(f"{at}.ffn_down_exps.weight", (experts.count, hidden, inner), every(DOWN, slice(None)))


def write_gguf(checkpoint: Checkpoint, out: Path) -> None:
    config = checkpoint.config
    writer = gguf.GGUFWriter(out, ARCHITECTURES[config.architecture])
    _write_shapes(writer, config)
    write_token_numbers(writer, config.vocab_size)
    for each in tensors(checkpoint):
        writer.add_tensor_info(each.name, each.shape, each.dtype, each.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for each in tensors(checkpoint):
        writer.write_tensor_data(each.array())
    writer.close()


def _write_shapes(writer: gguf.GGUFWriter, config: GlmConfig) -> None:
    assert config.experts is not None
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_leading_dense_block_count(config.experts.first_layer)
    writer.add_expert_feed_forward_length(config.experts.intermediate_size)
    for key, value in routing(config).items():
        getattr(writer, f"add_{key}")(value)
    if config.latent is None:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        return
    # Absorbed, all heads share the latent as their one key and value; the `_mla` lengths are those of a head.
    rank = config.latent.key_value_rank
    writer.add_head_count_kv(1)
    writer.add_q_lora_rank(config.latent.query_rank)
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + config.rotary_dim)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config.head_dim)
    writer.add_value_length_mla(config.head_dim)


def routing(config: GlmConfig) -> dict[str, Any]:
    """How a token meets its experts, by GGUF's keys."""
    assert config.experts is not None
    return {
        "expert_count": config.experts.count,
        "expert_used_count": config.experts.per_token,
        "expert_shared_count": config.experts.shared,
        "expert_weights_scale": config.experts.scaling,
        "expert_weights_norm": True,
        "expert_gating_func": gguf.ExpertGatingFuncType.SIGMOID,
    }


def require_same_work(checkpoint: Checkpoint, path: Path) -> gguf.GGUFReader:
    """The file opened, if it has the checkpoint's tensors by shape, and routes a token to as many experts, as it does.

    Raises:
        SystemExit: it does not.
    """
    reader, config = gguf.GGUFReader(path), checkpoint.config
    found = {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in reader.tensors}
    expected = {each.name: each.shape for each in tensors(checkpoint)}
    if found != expected:
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise SystemExit(f"{path}: these tensors are not the checkpoint's in shape: {', '.join(differing)}")
    architecture = ARCHITECTURES[config.architecture]
    for key, value in routing(config).items():
        field = reader.get_field(f"{architecture}.{key}")
        stated = None if field is None else field.contents()
        if stated is None or not np.isclose(stated, value):
            raise SystemExit(f"{path}: {key} is {stated}, not {value}")
    return reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    write_gguf(open_checkpoint(args.model), args.out)


if __name__ == "__main__":
    main()
