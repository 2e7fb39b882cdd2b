"""A Llama-shaped GGUF of the same weights as a native ChatGLM2 checkpoint, float16, for llama.cpp.

    python -m benchmarks.decode_twin --model DIR --out twin-f16.gguf      (needs the package gguf)

The shape is the same and so is the work, but for rotation: llama.cpp's ``llama`` architecture rotates whole heads, so
the twin computes another function of the same weights.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
from torch import Tensor

from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.store.checkpoint import Checkpoint, open_checkpoint


def half(tensor: Tensor) -> np.ndarray:
    return tensor.half().numpy()


def single(tensor: Tensor) -> np.ndarray:
    return tensor.float().numpy()


def write_header(writer: gguf.GGUFWriter, config: GlmConfig, length: int) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    # Ids alone matter here; the text of a token is its number.
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{index}>".encode() for index in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (config.vocab_size - 3)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write_block(writer: gguf.GGUFWriter, block: Block, config: GlmConfig, layer: int) -> None:
    name = f"blk.{layer}"
    rows = [config.query_rows, config.key_value_rows, config.key_value_rows]
    parts = block.linears()["self_attn.qkv_proj"].weight.split(rows)
    biases = (
        block.linears()["self_attn.qkv_proj"].bias_N.split(rows)
        if block.linears()["self_attn.qkv_proj"].bias_N is not None
        else [None] * 3
    )
    for part, weight, bias in zip("qkv", parts, biases, strict=True):
        writer.add_tensor(f"{name}.attn_{part}.weight", half(weight))
        if bias is not None:
            writer.add_tensor(f"{name}.attn_{part}.bias", single(bias))
    gate, up = block.linears()["mlp.gate_up_proj"].weight.chunk(2)
    writer.add_tensor(f"{name}.attn_norm.weight", single(block.attention.gains["input_layernorm"]))
    writer.add_tensor(f"{name}.attn_output.weight", half(block.linears()["self_attn.o_proj"].weight))
    writer.add_tensor(f"{name}.ffn_norm.weight", single(block.mlp.gains["post_attention_layernorm"]))
    writer.add_tensor(f"{name}.ffn_gate.weight", half(gate))
    writer.add_tensor(f"{name}.ffn_up.weight", half(up))
    writer.add_tensor(f"{name}.ffn_down.weight", half(block.linears()["mlp.down_proj"].weight))


def write(checkpoint: Checkpoint, out: Path, length: int) -> None:
    config = checkpoint.config
    writer = gguf.GGUFWriter(out, "llama", use_temp_file=False)
    write_header(writer, config, length)
    writer.add_tensor("token_embd.weight", half(checkpoint.embedding()))
    for layer in range(config.num_hidden_layers):
        write_block(writer, checkpoint.block(layer), config, layer)
    writer.add_tensor("output_norm.weight", single(checkpoint.final_norm()))
    writer.add_tensor("output.weight", half(checkpoint.lm_head().weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, default=8192)
    args = parser.parse_args()
    write(open_checkpoint(args.model), args.out, args.length)
