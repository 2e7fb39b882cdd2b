"""Models in memory, and the logits torch computes from them.

Shape suffixes: B batch, T tokens, D hidden size, V vocabulary.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from glmquant.core.spec import QuantSpec
from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.glm.linear import Linear
from glmquant.glm.rotary import positions_and_mask, rms_norm, rotary
from glmquant.methods.rtn import Rtn
from tests.support.blocks import block_forward, make_block
from tests.support.checkpoints import tiny_config

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_NAMES = ("chatglm2-tiny", "chatglm3-tiny")

TINY = replace(
    tiny_config(),
    family="chatglm2",
    hidden_size=96,
    intermediate_size=160,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=32,
    rotary_dim=16,
    vocab_size=200,
    max_position_embeddings=64,
    float_dtype="float32",
)
TINY_GLM4 = replace(TINY, architecture="glm4", family="glm-4-0414", attention_bias=False, num_attention_heads=4)


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A :class:`glmquant.glm.model.ModelSource` whose weights are all here."""

    config: GlmConfig
    blocks: tuple[Block, ...]
    embedding_VD: Tensor
    norm_D: Tensor
    output_head: Linear

    def block(self, layer: int) -> Block:
        return self.blocks[layer]

    def embedding(self) -> Tensor:
        return self.embedding_VD

    def final_norm(self) -> Tensor:
        return self.norm_D

    def head(self) -> Linear:
        return self.output_head


def random_source(config: GlmConfig = TINY, seed: int = 0) -> MemorySource:
    gen = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=gen) / columns**0.5

    def gain() -> Tensor:
        return 1 + 0.2 * torch.randn(config.hidden_size, generator=gen)

    def block() -> Block:
        rows = config.query_rows + 2 * config.key_value_rows
        bias = 0.3 * torch.randn(rows, generator=gen) if config.attention_bias else None
        return make_block(
            config,
            input_layernorm=gain(),
            qkv_proj=Linear(2 * matrix(rows, config.hidden_size), bias),
            o_proj=Linear(matrix(config.hidden_size, config.query_rows)),
            post_attention_layernorm=gain(),
            gate_up_proj=Linear(matrix(2 * config.intermediate_size, config.hidden_size)),
            down_proj=Linear(matrix(config.hidden_size, config.intermediate_size)),
            post_self_attn_layernorm=gain() if config.sandwich_norms else None,
            post_mlp_layernorm=gain() if config.sandwich_norms else None,
        )

    blocks = tuple(block() for _ in range(config.num_hidden_layers))
    embedding = torch.randn(config.vocab_size, config.hidden_size, generator=gen)
    return MemorySource(config, blocks, embedding, gain(), Linear(matrix(config.vocab_size, config.hidden_size)))


def golden_source(name: str) -> MemorySource:
    directory = GOLDEN / name
    config_path = directory / "config.json"
    config = resolve_layout(json.loads(config_path.read_text()), config_path=config_path).config
    tensors: dict[str, Tensor] = {}
    for shard in sorted(directory.glob("*.bin")):
        tensors |= torch.load(shard, weights_only=True)

    def block(layer: int) -> Block:
        prefix = f"transformer.encoder.layers.{layer}"
        attention, mlp = f"{prefix}.self_attention", f"{prefix}.mlp"
        return make_block(
            config,
            post_self_attn_layernorm=None,
            post_mlp_layernorm=None,
            input_layernorm=tensors[f"{prefix}.input_layernorm.weight"],
            qkv_proj=Linear(
                tensors[f"{attention}.query_key_value.weight"], tensors[f"{attention}.query_key_value.bias"]
            ),
            o_proj=Linear(tensors[f"{attention}.dense.weight"]),
            post_attention_layernorm=tensors[f"{prefix}.post_attention_layernorm.weight"],
            gate_up_proj=Linear(tensors[f"{mlp}.dense_h_to_4h.weight"]),
            down_proj=Linear(tensors[f"{mlp}.dense_4h_to_h.weight"]),
        )

    return MemorySource(
        config,
        tuple(block(layer) for layer in range(config.num_hidden_layers)),
        tensors["transformer.embedding.word_embeddings.weight"],
        tensors["transformer.encoder.final_layernorm.weight"],
        Linear(tensors["transformer.output_layer.weight"]),
    )


def golden_expected(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / name / "expected.safetensors")


def quantized(source: MemorySource, spec: QuantSpec) -> MemorySource:
    """Every linear rounded to nearest."""

    def rounded(layer: Linear) -> Linear:
        return Linear(Rtn().quantize(layer.dense(), spec, None), layer.bias_N)

    def block(block: Block) -> Block:
        return block.mapped(rounded, lambda gain: gain)

    return replace(source, blocks=tuple(map(block, source.blocks)), output_head=rounded(source.output_head))


def torch_logits(source: MemorySource, ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
    """Logits ``[B, T, V]`` in float32; those of padding mean nothing."""
    config = source.config
    positions_BT, mask = positions_and_mask(torch.ones_like(ids_BT) if mask_BT is None else mask_BT)
    rope = rotary(config, positions_BT)
    x_BTD = source.embedding_VD[ids_BT].float()
    for block in source.blocks:
        x_BTD = block_forward(x_BTD, block, config, rope, mask)
    return source.output_head(rms_norm(x_BTD, source.norm_D, config.rms_norm_eps))
