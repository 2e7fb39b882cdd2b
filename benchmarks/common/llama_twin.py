"""A Llama model of the same weights and shapes as a GLM checkpoint, for programs that know no GLM.

    python -m benchmarks.common.llama_twin MODEL OUT

OUT ending in ``.gguf`` gets a float16 GGUF for llama.cpp; any other OUT, a Hugging Face directory.

Work and sizes are the same; rotation differs: Llama rotates whole heads, so the twin computes another function of the
same weights.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from torch import Tensor

from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.safetensors_file import write_safetensors

CONTEXT = 8192
HUGGING_FACE_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""By GGUF's name of a block's tensor."""


def block_weights(block: Block, config: GlmConfig) -> dict[str, Tensor]:
    """A block's norms and linear layers by GGUF's names, fused ones split."""
    linears = block.linears()
    query, key, value = linears["self_attn.qkv_proj"].weight.split(_qkv_rows(config))
    gate, up = linears["mlp.gate_up_proj"].weight.chunk(2)
    return {
        "attn_norm": block.attention.gains["input_layernorm"],
        "attn_q": query,
        "attn_k": key,
        "attn_v": value,
        "attn_output": linears["self_attn.o_proj"].weight,
        "ffn_norm": block.mlp.gains["post_attention_layernorm"],
        "ffn_gate": gate,
        "ffn_up": up,
        "ffn_down": linears["mlp.down_proj"].weight,
    }


def block_biases(block: Block, config: GlmConfig) -> dict[str, Tensor]:
    """Of the query, key and value projections, where the model has them."""
    bias_N = block.linears()["self_attn.qkv_proj"].bias_N
    if bias_N is None:
        return {}
    return dict(zip(("attn_q", "attn_k", "attn_v"), bias_N.split(_qkv_rows(config)), strict=True))


def _qkv_rows(config: GlmConfig) -> list[int]:
    return [config.query_rows, config.key_value_rows, config.key_value_rows]


def write_gguf(checkpoint: Checkpoint, out: Path, context: int = CONTEXT) -> None:
    """Matrices in float16, vectors in float32."""
    config = checkpoint.config
    writer = gguf.GGUFWriter(out, "llama", use_temp_file=False)
    _write_gguf_header(writer, config, context)
    writer.add_tensor("token_embd.weight", _gguf_array(checkpoint.embedding()))
    for layer in range(config.num_hidden_layers):
        block = checkpoint.block(layer)
        for name, weight in block_weights(block, config).items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", _gguf_array(weight))
        for name, bias in block_biases(block, config).items():
            writer.add_tensor(f"blk.{layer}.{name}.bias", _gguf_array(bias))
    writer.add_tensor("output_norm.weight", _gguf_array(checkpoint.final_norm()))
    writer.add_tensor("output.weight", _gguf_array(checkpoint.head().weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_array(tensor: Tensor) -> np.ndarray:
    return (tensor.half() if tensor.ndim > 1 else tensor.float()).numpy()


def _write_gguf_header(writer: gguf.GGUFWriter, config: GlmConfig, context: int) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    write_token_numbers(writer, config.vocab_size)


def write_token_numbers(writer: gguf.GGUFWriter, count: int) -> None:
    """A vocabulary for comparisons where ids alone matter: the text of a token is its number."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{index}>".encode() for index in range(count)])
    writer.add_token_scores([0.0] * count)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (count - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write_hugging_face(checkpoint: Checkpoint, out: Path) -> None:
    """A shard for each block, in the checkpoint's own dtype; without biases, which Llama does not have."""
    config = checkpoint.config
    out.mkdir(parents=True)
    shards = {"model-first.safetensors": {"model.embed_tokens.weight": checkpoint.embedding()}}
    weight_map: dict[str, str] = {}
    for layer in range(config.num_hidden_layers):
        shards[f"model-{layer}.safetensors"] = {
            f"model.layers.{layer}.{HUGGING_FACE_NAMES[name]}.weight": weight
            for name, weight in block_weights(checkpoint.block(layer), config).items()
        }
    shards["model-last.safetensors"] = {
        "model.norm.weight": checkpoint.final_norm(),
        "lm_head.weight": checkpoint.head().dense(checkpoint.embedding().dtype),
    }
    for name, tensors in shards.items():
        write_safetensors(out / name, tensors, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (out / "config.json").write_text(json.dumps(_llama_config(config), indent=2))
    load_tokenizer(checkpoint.path, config).save(out)


def _llama_config(config: GlmConfig) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    write = write_gguf if args.out.suffix == ".gguf" else write_hugging_face
    write(open_checkpoint(args.model), args.out)


if __name__ == "__main__":
    main()
