"""Tiny random models, and checkpoints of them on disk."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from glmquant.core.packed_tensor import PackedTensor
from glmquant.core.qtensor import QuantTensor, storable
from glmquant.core.spec import QuantSpec
from glmquant.glm.block import Block
from glmquant.glm.config import ExpertsConfig, GlmConfig, LatentConfig, LinearGroup
from glmquant.glm.groups import block_groups, head_group
from glmquant.glm.hf_config import to_hf_config
from glmquant.glm.linear import Linear
from glmquant.glm.names import canonical_shapes
from glmquant.store.gptq import Version, encode
from tests.support.blocks import make_block, weights_of

GOLDEN = Path(__file__).parents[1] / "golden"


def tiny_config(*, architecture: str = "glm", tied: bool = False, layers: int = 2) -> GlmConfig:
    return GlmConfig(
        architecture=architecture,  # type: ignore[arg-type]
        family="glm-4-0414" if architecture == "glm4" else "glm",
        num_hidden_layers=layers,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rotary_dim=8,
        rope_theta=10000.0,
        position_divisor=1.0,
        rms_norm_eps=1e-5,
        vocab_size=160,
        max_position_embeddings=128,
        attention_bias=True,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_ids=(2,),
        pad_token_id=0,
    )


def tiny_sparse_config(layers: int = 2) -> GlmConfig:
    """GLM-4.7-Flash's kind: the first layer dense, latent attention."""
    return replace(
        tiny_config(layers=layers),
        architecture="glm4_moe_lite",
        family="glm-4.7-flash",
        num_key_value_heads=4,
        head_dim=32,
        rotary_dim=16,
        attention_bias=False,
        experts=ExpertsConfig(count=4, per_token=2, intermediate_size=32, shared=1, scaling=1.8, first_layer=1),
        latent=LatentConfig(query_rank=32, key_value_rank=32, still_dim=16),
    )


def random_float(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_quantized(rows: int, columns: int, spec: QuantSpec, seed: int = 0) -> QuantTensor:
    generator = torch.Generator().manual_seed(seed)
    grouped = (rows, spec.num_groups(columns))
    codes = torch.randint(0, spec.max_code + 1, (rows, columns), generator=generator, dtype=torch.uint8)
    zeros = torch.full(grouped, spec.middle, dtype=torch.uint8)
    if not spec.symmetric:
        zeros = torch.randint(0, spec.max_code + 1, grouped, generator=generator, dtype=torch.uint8)
    return QuantTensor(codes, storable(torch.rand(grouped, generator=generator)), zeros, spec)


def encoded(quantized: QuantTensor | PackedTensor, version: Version, *, name: str) -> dict[str, Tensor]:
    """As a file in GPTQ format has it, by suffix."""
    return {suffix: tensor.make() for suffix, tensor in encode(quantized, version, name=name).items()}


def random_linear(group: LinearGroup, spec: QuantSpec | None, *, bias: bool = False, seed: int = 0) -> Linear:
    weight = random_float(group.rows, group.columns, seed=seed)
    quantized = weight if spec is None else random_quantized(group.rows, group.columns, spec, seed)
    return Linear(quantized, random_float(group.rows, seed=seed + 1) if bias else None)


def random_block(config: GlmConfig, layer: int, plan: Mapping[str, QuantSpec | None]) -> Block:
    seed = 100 * layer
    linears = {
        group.name.rpartition(".")[2]: random_linear(group, plan[group.name], bias=group.bias, seed=seed + i)
        for i, group in enumerate(block_groups(config, layer))
    }
    norms = [random_float(config.hidden_size, seed=seed + 10 + i) for i in range(4)]
    names = ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
    return make_block(config, **linears, **dict(zip(names, norms, strict=True)))


def random_head(config: GlmConfig, spec: QuantSpec | None) -> Linear:
    return random_linear(head_group(config), spec, seed=7)


def float_tensors(config: GlmConfig) -> dict[str, Tensor]:
    shapes = canonical_shapes(config)
    return {name: random_float(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}


def write_config(directory: Path, config: GlmConfig, **extra: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(to_hf_config(config) | extra))


def write_checkpoint(directory: Path, config: GlmConfig, tensors: Mapping[str, Tensor] | None = None) -> Path:
    """A ``glm`` checkpoint in one safetensors file."""
    write_config(directory, config)
    save_file(dict(float_tensors(config) if tensors is None else tensors), directory / "model.safetensors")
    return directory


def write_shards(directory: Path, shards: Mapping[str, Mapping[str, Tensor]]) -> None:
    """``.bin`` shards and their index."""
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    for shard, tensors in shards.items():
        torch.save(dict(tensors), directory / shard)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def assert_same_linear(ours: Linear, theirs: Linear) -> None:
    if isinstance(theirs.weight, QuantTensor):
        assert isinstance(ours.weight, QuantTensor)
        assert ours.weight.spec == theirs.weight.spec
        assert torch.equal(ours.weight.codes_NK, theirs.weight.codes_NK)
        assert torch.equal(ours.weight.scales_NG, theirs.weight.scales_NG)
        assert torch.equal(ours.weight.zeros_NG, theirs.weight.zeros_NG)
    else:
        assert_same_tensor(ours.weight, theirs.weight)
    assert_same_tensor(ours.bias_N, theirs.bias_N)


def assert_same_tensor(ours: object, theirs: Tensor | None) -> None:
    if theirs is None:
        assert ours is None
    else:
        assert isinstance(ours, Tensor)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def assert_same_block(ours: Block, theirs: Block) -> None:
    found, expected = weights_of(ours), weights_of(theirs)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        if isinstance(weight, Linear):
            assert_same_linear(found[name], weight)  # type: ignore[arg-type]
        else:
            assert_same_tensor(found[name], weight)
