"""Write a ChatGLM2-6B-shaped checkpoint of random weights in the publisher's layout: seven float16 ``.bin`` shards.

    python -m benchmarks.common.make_chatglm2 --layers 4 --out DIR [--tokenizer-of CHECKPOINT]

One shard is in memory at a time. 28 layers are the whole model, 12.5 GB; 4 layers are 2.7 GB. ``--divisor 2`` halves
hidden size, heads and MLP, so that a block is a quarter as large.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

HIDDEN, FFN, HEADS, GROUPS, HEAD_DIM, VOCAB, SHARDS = 4096, 13696, 32, 2, 128, 65024, 7
CONFIG = {
    "_name_or_path": "chatglm2-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": FFN,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": HIDDEN,
    "kv_channels": HEAD_DIM,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": GROUPS,
    "num_attention_heads": HEADS,
    "original_rope": True,
    "padded_vocab_size": VOCAB,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 32768,
    "use_cache": True,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def shapes(layers: int, divisor: int = 1) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, ffn = HIDDEN // divisor, FFN // divisor
    qkv_rows = (HEADS // divisor + 2 * GROUPS) * HEAD_DIM
    yield "transformer.embedding.word_embeddings.weight", (VOCAB, hidden)
    for layer in range(layers):
        prefix = f"transformer.encoder.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attention.query_key_value.weight", (qkv_rows, hidden)
        yield f"{prefix}.self_attention.query_key_value.bias", (qkv_rows,)
        yield f"{prefix}.self_attention.dense.weight", (hidden, hidden)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.mlp.dense_h_to_4h.weight", (2 * ffn, hidden)
        yield f"{prefix}.mlp.dense_4h_to_h.weight", (hidden, ffn)
    yield "transformer.encoder.final_layernorm.weight", (hidden,)
    yield "transformer.output_layer.weight", (VOCAB, hidden)


def config(layers: int, divisor: int = 1) -> dict[str, Any]:
    sizes = {"hidden_size": HIDDEN, "ffn_hidden_size": FFN, "num_attention_heads": HEADS}
    return {**CONFIG, **{name: size // divisor for name, size in sizes.items()}, "num_layers": layers}


def into_shards(tensors: list[tuple[str, tuple[int, ...]]]) -> list[list[tuple[str, tuple[int, ...]]]]:
    """In order, of about equal size."""
    sizes = [torch.Size(shape).numel() for _, shape in tensors]
    starts = [end - size for end, size in zip(accumulate(sizes), sizes, strict=True)]
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[] for _ in range(SHARDS)]
    for tensor, start in zip(tensors, starts, strict=True):
        shards[start * SHARDS // sum(sizes)].append(tensor)
    return [shard for shard in shards if shard]


def random_tensor(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return (1 + 0.1 * torch.randn(shape, generator=generator)).half()
    return (torch.randn(shape, generator=generator) / shape[1] ** 0.5).half()


def write(out: Path, layers: int, tokenizer_of: Path | None, divisor: int = 1) -> None:
    out.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    shards = into_shards(list(shapes(layers, divisor)))
    weight_map, size = {}, 0
    for number, shard in enumerate(shards, 1):
        name = f"pytorch_model-{number:05}-of-{len(shards):05}.bin"
        tensors = {key: random_tensor(shape, generator) for key, shape in shard}
        torch.save(tensors, out / name)
        weight_map |= dict.fromkeys(tensors, name)
        size += sum(tensor.numel() * 2 for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (out / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2))
    (out / "config.json").write_text(json.dumps(config(layers, divisor), indent=2))
    if tokenizer_of is not None:
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(tokenizer_of / name, out / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer-of", type=Path)
    parser.add_argument("--divisor", type=int, default=1, choices=(1, 2, 4))
    args = parser.parse_args()
    write(args.out, args.layers, args.tokenizer_of, args.divisor)
