"""Write a slice of GLM-4.7-Flash or GLM-4.5-Air: the published shapes and names, random bfloat16 weights.

    python -m benchmarks.common.make_sparse flash --layers 5 --out DIR
    python -m benchmarks.common.make_sparse air --layers 2 --out DIR

The first layer is dense, as published; ``--sparse`` leaves it out. A shard holds a layer, and one is in memory at a
time. The router's bias has a large offset and a small spread, as published ones have. The tokenizer is that of the demo
model, whose ids are all within the vocabulary.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from glmquant.assets import DEMO_MODEL
from glmquant.store.checkpoint import open_checkpoint

COMMON: dict[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "num_nextn_predict_layers": 1,
    "eos_token_id": [2],
    "pad_token_id": 0,
}
FLASH: dict[str, Any] = COMMON | {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "moe_intermediate_size": 1536,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 1.8,
    "topk_method": "noaux_tc",
    "partial_rotary_factor": 1.0,
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "vocab_size": 154880,
    "max_position_embeddings": 202752,
}
AIR: dict[str, Any] = COMMON | {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "attention_bias": True,
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "n_routed_experts": 128,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 1.0,
    "partial_rotary_factor": 0.5,
    "use_qk_norm": False,
    "vocab_size": 151552,
    "max_position_embeddings": 131072,
}
CONFIGS = {"flash": FLASH, "air": AIR}


def shapes(config: dict[str, Any], layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of a layer by their names within it."""
    hidden = config["hidden_size"]
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    yield from _latent_attention(config) if "kv_lora_rank" in config else _attention(config)
    if layer < config["first_k_dense_replace"]:
        yield from _mlp("mlp", hidden, config["intermediate_size"])
        return
    count, inner = config["n_routed_experts"], config["moe_intermediate_size"]
    yield "mlp.gate.weight", (count, hidden)
    yield "mlp.gate.e_score_correction_bias", (count,)
    yield from _mlp("mlp.shared_experts", hidden, inner)
    for expert in range(count):
        yield from _mlp(f"mlp.experts.{expert}", hidden, inner)


def _mlp(at: str, hidden: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{at}.gate_proj.weight", (inner, hidden)
    yield f"{at}.up_proj.weight", (inner, hidden)
    yield f"{at}.down_proj.weight", (hidden, inner)


def _attention(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    rows = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"], "v": config["num_key_value_heads"]}
    for name, heads in rows.items():
        yield f"self_attn.{name}_proj.weight", (heads * config["head_dim"], config["hidden_size"])
        yield f"self_attn.{name}_proj.bias", (heads * config["head_dim"],)
    yield "self_attn.o_proj.weight", (config["hidden_size"], rows["q"] * config["head_dim"])


def _latent_attention(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, heads, still = config["hidden_size"], config["num_attention_heads"], config["qk_nope_head_dim"]
    queries, latent, turning = config["q_lora_rank"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    yield "self_attn.q_a_proj.weight", (queries, hidden)
    yield "self_attn.q_a_layernorm.weight", (queries,)
    yield "self_attn.q_b_proj.weight", (heads * (still + turning), queries)
    yield "self_attn.kv_a_proj_with_mqa.weight", (latent + turning, hidden)
    yield "self_attn.kv_a_layernorm.weight", (latent,)
    yield "self_attn.kv_b_proj.weight", (heads * (still + config["v_head_dim"]), latent)
    yield "self_attn.o_proj.weight", (hidden, heads * config["v_head_dim"])


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("e_score_correction_bias"):
        return 7 + 0.02 * torch.randn(shape, generator=generator)
    if name.endswith(".bias"):
        return (0.1 * torch.randn(shape, generator=generator)).bfloat16()
    if len(shape) == 1:
        return (1 + 0.1 * torch.randn(shape, generator=generator)).bfloat16()
    return torch.randn(shape, generator=generator, dtype=torch.bfloat16).div_(shape[1] ** 0.5)


def write(config: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    ends = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    pieces = [{**ends, "model.norm.weight": (hidden,)}]
    for layer in range(config["num_hidden_layers"]):
        pieces.append({f"model.layers.{layer}.{name}": shape for name, shape in shapes(config, layer)})
    weight_map, size = {}, 0
    for number, piece in enumerate(pieces, 1):
        file = f"model-{number:05}-of-{len(pieces):05}.safetensors"
        tensors = {name: random_tensor(name, shape, generator) for name, shape in piece.items()}
        save_file(tensors, out / file, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
        print(f"{file}: {size / 1e9:.2f} GB so far", flush=True)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    (out / "config.json").write_text(json.dumps(config, indent=1))
    open_checkpoint(DEMO_MODEL).tokenizer.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", choices=CONFIGS)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--sparse", action="store_true", help="no dense layer")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    layers = {"num_hidden_layers": args.layers, "first_k_dense_replace": 0 if args.sparse else 1}
    write(CONFIGS[args.model] | layers, args.out)


if __name__ == "__main__":
    main()
