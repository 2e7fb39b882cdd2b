"""A Llama checkpoint of the same weights and shapes as a native ChatGLM2 one, for tools that know no GLM.

    python -m benchmarks.laptop.llama_twin MODEL OUT

Only rotation differs: Llama turns whole heads, so the twin computes another function of the same weights.
"""

import argparse
import json
from pathlib import Path

from torch import Tensor

from glmquant.glm.config import GlmConfig
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.safetensors_file import write_safetensors


def block_tensors(checkpoint: Checkpoint, layer: int) -> dict[str, Tensor]:
    config, block, name = checkpoint.config, checkpoint.block(layer), f"model.layers.{layer}"
    rows = [config.query_rows, config.key_value_rows, config.key_value_rows]
    tensors = {
        f"{name}.input_layernorm.weight": block.attention.gains["input_layernorm"],
        f"{name}.post_attention_layernorm.weight": block.mlp.gains["post_attention_layernorm"],
        f"{name}.self_attn.o_proj.weight": block.linears()["self_attn.o_proj"].weight,
        f"{name}.mlp.down_proj.weight": block.linears()["mlp.down_proj"].weight,
    }
    for part, weight in zip("qkv", block.linears()["self_attn.qkv_proj"].weight.split(rows), strict=True):
        tensors[f"{name}.self_attn.{part}_proj.weight"] = weight
    for part, weight in zip(("gate", "up"), block.linears()["mlp.gate_up_proj"].weight.chunk(2), strict=True):
        tensors[f"{name}.mlp.{part}_proj.weight"] = weight
    return tensors


def llama_config(config: GlmConfig) -> dict[str, object]:
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


def write(model: Path, out: Path) -> None:
    checkpoint = open_checkpoint(model)
    out.mkdir(parents=True)
    shards = {"model-first.safetensors": {"model.embed_tokens.weight": checkpoint.embedding()}}
    weight_map = {}
    for layer in range(checkpoint.config.num_hidden_layers):
        shards[f"model-{layer}.safetensors"] = block_tensors(checkpoint, layer)
    shards["model-last.safetensors"] = {
        "model.norm.weight": checkpoint.final_norm(),
        "lm_head.weight": checkpoint.lm_head().dense(checkpoint.embedding().dtype),
    }
    for name, tensors in shards.items():
        write_safetensors(out / name, tensors, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (out / "config.json").write_text(json.dumps(llama_config(checkpoint.config), indent=2))
    load_tokenizer(model, checkpoint.config).save(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    write(args.model, args.out)
