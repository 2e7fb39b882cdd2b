"""Checkpoints that others quantized: the publisher's own rows, and GPTQ in the forms other software writes it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.errors import CheckpointError
from glmquant.glm.groups import block_groups
from glmquant.glm.linear import Linear
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.gptq import Version
from tests.support.blocks import weights_of
from tests.support.checkpoints import GOLDEN, encoded, random_quantized

CHATGLM2 = GOLDEN / "chatglm2-tiny"
LAYER = "transformer.encoder.layers.1."
LINEARS = {
    "qkv_proj": "self_attention.query_key_value",
    "o_proj": "self_attention.dense",
    "gate_up_proj": "mlp.dense_h_to_4h",
    "down_proj": "mlp.dense_4h_to_h",
}
Tensors = dict[str, Tensor]


def published() -> Tensors:
    shards = [torch.load(path, weights_only=True) for path in sorted(CHATGLM2.glob("pytorch_model-*.bin"))]
    return {name: tensor for shard in shards for name, tensor in shard.items()}


def write(directory: Path, tensors: Tensors, **config: Any) -> Path:
    directory.mkdir()
    values = json.loads((CHATGLM2 / "config.json").read_text()) | config
    (directory / "config.json").write_text(json.dumps(values))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(CHATGLM2 / name, directory)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    return directory


def is_linear(name: str, tensor: Tensor) -> bool:
    return ".layers." in name and tensor.dim() == 2


def row_quantized(tensors: Tensors, bits: int) -> Tensors:
    """Blocks as the publisher quantizes them: absmax of a row to the largest code; of 4 bits the even column high."""
    out = dict(tensors)
    for name, weight in tensors.items():
        if not is_linear(name, weight):
            continue
        scale = (weight.float().abs().amax(1) / (2 ** (bits - 1) - 1)).half()
        codes = (weight.float() / scale.float()[:, None]).round().to(torch.int8)
        out[name] = codes if bits == 8 else (codes[:, ::2] << 4) | (codes[:, 1::2] & 15)
        out[f"{name}_scale"] = scale
    return out


def weight_by_element(tensors: Tensors, name: str, bits: int, n: int, k: int) -> float:
    byte = int(tensors[name][n, k * bits // 8]) % 256
    code = byte if bits == 8 else byte >> 4 if k % 2 == 0 else byte & 15
    signed = code - 2**bits if code >= 2 ** (bits - 1) else code
    return signed * float(tensors[f"{name}_scale"][n])


@pytest.mark.parametrize("bits", [4, 8])
def test_the_publishers_own_rows(tmp_path: Path, bits: int) -> None:
    tensors = row_quantized(published(), bits)
    checkpoint = open_checkpoint(write(tmp_path / "c", tensors, quantization_bit=bits))
    assert checkpoint.quantization == "rows"
    assert checkpoint.tensor_bytes == sum(t.nbytes for name, t in tensors.items() if not name.endswith("inv_freq"))
    block = checkpoint.block(1)
    for field, name in LINEARS.items():
        weight = weights_of(block)[field].weight
        assert isinstance(weight, QuantTensor)
        assert weight.spec == QuantSpec(bits, -1, symmetric=True)
        dense = weight.dequantize()
        for i in range(200):
            n, k = i * 7919 % weight.shape[0], i * 104729 % weight.shape[1]
            assert float(dense[n, k]) == weight_by_element(tensors, f"{LAYER}{name}.weight", bits, n, k)
    assert isinstance(checkpoint.lm_head().weight, Tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{LAYER}mlp.dense_4h_to_h.weight_scale"), r"no tensor .*weight_scale"),
        (lambda t: t.update({f"{LAYER}mlp.dense_4h_to_h.weight_scale": torch.ones(7).half()}), "of shape"),
        (
            lambda t: t.update({f"{LAYER}mlp.dense_4h_to_h.weight": torch.ones(128, 352).half()}),
            r"is torch\.float16[\s\S]*torch\.int8 tensor of shape \[128, 352\]",
        ),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, change: Callable[[Tensors], object], message: str) -> None:
    tensors = row_quantized(published(), 8)
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(write(tmp_path / "c", tensors, quantization_bit=8))


@pytest.mark.parametrize("scale", [-1.0, float("nan")])
def test_row_scales_that_mean_nothing(tmp_path: Path, scale: float) -> None:
    tensors = row_quantized(published(), 8)
    tensors[f"{LAYER}mlp.dense_4h_to_h.weight_scale"][5] = scale
    checkpoint = open_checkpoint(write(tmp_path / "c", tensors, quantization_bit=8))
    with pytest.raises(CheckpointError, match=r"dense_4h_to_h\.weight_scale[\s\S]*model\.safetensors"):
        checkpoint.block(1)


def gptq(tensors: Tensors, spec: QuantSpec, version: Version, order: Callable[[int], Tensor] | None = None) -> Tensors:
    """Every linear of the blocks with random codes; columns are put into groups in ``order``."""
    out = {name: tensor for name, tensor in tensors.items() if not is_linear(name, tensor)}
    for seed, (name, weight) in enumerate(tensors.items()):
        if not is_linear(name, weight):
            continue
        module = name.removesuffix(".weight")
        words = encoded(random_quantized(*weight.shape, spec, seed), version, name=module)
        if order is not None:
            words["g_idx"] = words["g_idx"][order(weight.shape[1])]
        out |= {f"{module}.{suffix}": tensor for suffix, tensor in words.items()}
    return out


def element(tensors: Tensors, module: str, bits: int, version: Version, n: int, k: int) -> float:
    """One weight, by the format's own description."""
    words = {suffix: tensors[f"{module}.{suffix}"] for suffix in ("qweight", "qzeros", "scales", "g_idx")}
    per_word, mask, group = 32 // bits, 2**bits - 1, int(words["g_idx"][k])
    code = int(words["qweight"][k // per_word, n]) >> (bits * (k % per_word)) & mask
    zero = int(words["qzeros"][group, n // per_word]) >> (bits * (n % per_word)) & mask
    return (code - ((zero + 1) & mask if version == "gptq" else zero)) * float(words["scales"][group, n])


def shuffled(columns: int) -> Tensor:
    return torch.randperm(columns, generator=torch.Generator().manual_seed(columns))


SECTIONS: dict[str, tuple[Version, dict[str, Any]]] = {
    "AutoGPTQ": ("gptq", {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}),
    "GPTQModel v2": ("gptq_v2", {"quant_method": "gptq", "checkpoint_format": "gptq_v2", "group_size": 32}),
    "AutoRound": ("gptq", {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "group_size": 32}),
    "AutoRound, old": ("gptq_v2", {"quant_method": "intel/auto-round", "packing_format": "auto_round"}),
}


@pytest.mark.parametrize("order", [None, shuffled], ids=["natural", "desc_act"])
@pytest.mark.parametrize(("version", "section"), SECTIONS.values(), ids=SECTIONS.keys())
def test_native_names_in_gptq(
    tmp_path: Path, version: Version, section: dict[str, Any], order: Callable[[int], Tensor] | None
) -> None:
    tensors = gptq(published(), QuantSpec(4, 32, symmetric=False), version, order)
    checkpoint = open_checkpoint(write(tmp_path / "c", tensors, quantization_config=section))
    assert checkpoint.quantization == "gptq"
    block = checkpoint.block(1)
    for field, name in LINEARS.items():
        linear: Linear = weights_of(block)[field]
        dense = linear.dense()
        for i in range(200):
            n, k = i * 7919 % dense.shape[0], i * 104729 % dense.shape[1]
            expected = element(tensors, f"{LAYER}{name}", 4, version, n, k)
            assert float(dense[n, k]) == pytest.approx(expected, rel=1e-6)
        assert (linear.order_K is None) == (order is None)
        x = torch.randn(3, dense.shape[1])
        bias = 0 if linear.bias_N is None else linear.bias_N.float()
        torch.testing.assert_close(linear(x), x @ dense.T + bias, atol=1e-3, rtol=0)
        if linear.order_K is not None:
            assert isinstance(linear.weight, QuantTensor)
            torch.testing.assert_close(
                linear(x), x[:, linear.order_K] @ linear.weight.dequantize().T + bias, atol=1e-3, rtol=0
            )


def in_canonical_names(tensors: Tensors, checkpoint: Checkpoint) -> Tensors:
    """The same GPTQ tensors as ``glm`` has them, q, k and v apart."""
    out: Tensors = {}
    config = checkpoint.config
    for layer in range(config.num_hidden_layers):
        at = f"transformer.encoder.layers.{layer}."
        for group, name in zip(block_groups(config, layer), LINEARS.values(), strict=True):
            start = 0
            for member, rows in zip(group.members, group.member_rows, strict=True):
                stop, packed = start + rows, slice(start // 8, (start + rows) // 8)
                words = {suffix: tensors[f"{at}{name}.{suffix}"] for suffix in ("qweight", "qzeros", "scales", "g_idx")}
                out[f"{member}.qweight"] = words["qweight"][:, start:stop]
                out[f"{member}.qzeros"] = words["qzeros"][:, packed]
                out[f"{member}.scales"] = words["scales"][:, start:stop]
                out[f"{member}.g_idx"] = words["g_idx"].clone()
                if f"{at}{name}.bias" in tensors:
                    out[f"{member}.bias"] = tensors[f"{at}{name}.bias"][start:stop]
                start = stop
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"model.layers.{layer}.{norm}.weight"] = tensors[f"{at}{norm}.weight"]
    return out | {
        "model.embed_tokens.weight": checkpoint.embedding(),
        "model.norm.weight": checkpoint.final_norm(),
        "lm_head.weight": checkpoint.lm_head().dense(torch.float16),
    }


GLM = {
    "model_type": "glm",
    "num_hidden_layers": 3,
    "intermediate_size": 352,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 2112,
    "attention_bias": True,
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True},
}


@pytest.fixture
def canonical(tmp_path: Path) -> Tensors:
    tensors = gptq(published(), QuantSpec(4, 32), "gptq", shuffled)
    native = write(tmp_path / "native", tensors, quantization_config=GLM["quantization_config"])
    return in_canonical_names(tensors, open_checkpoint(native))


def test_q_k_and_v_apart_in_one_order(tmp_path: Path, canonical: Tensors) -> None:
    native = open_checkpoint(tmp_path / "native")
    checkpoint = open_checkpoint(write(tmp_path / "c", canonical, **GLM))
    for layer in range(3):
        for field in LINEARS:
            ours, theirs = weights_of(checkpoint.block(layer))[field], weights_of(native.block(layer))[field]
            assert torch.equal(ours.order_K, theirs.order_K)
            assert torch.equal(ours.dense(), theirs.dense())


def test_q_k_and_v_in_different_orders_are_refused(tmp_path: Path, canonical: Tensors) -> None:
    name = "model.layers.1.self_attn.k_proj.g_idx"
    canonical[name] = canonical[name].flip(0)
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.qkv_proj put their columns .* different orders"):
        open_checkpoint(write(tmp_path / "c", canonical, **GLM))


def test_q_k_and_v_of_different_specs_are_refused(tmp_path: Path, canonical: Tensors) -> None:
    words = encoded(random_quantized(64, 128, QuantSpec(8, 32)), "gptq", name="k")
    canonical |= {f"model.layers.1.self_attn.k_proj.{suffix}": tensor for suffix, tensor in words.items()}
    with pytest.raises(CheckpointError, match=r"the linear layers of layers\.1\.self_attn\.qkv_proj differ"):
        open_checkpoint(write(tmp_path / "c", canonical, **GLM))


def test_groups_of_uneven_size_are_refused(tmp_path: Path, canonical: Tensors) -> None:
    name = "model.layers.0.self_attn.o_proj.g_idx"
    canonical[name][:] = 0
    with pytest.raises(CheckpointError, match=r"o_proj\.g_idx does not put 32 columns into every group"):
        open_checkpoint(write(tmp_path / "c", canonical, **GLM))


def test_biases_of_zeros_are_left_out_and_others_are_not(tmp_path: Path, canonical: Tensors) -> None:
    name = "model.layers.2.mlp.gate_up_proj.bias"
    canonical[name] = torch.zeros(704, dtype=torch.float16)
    block = open_checkpoint(write(tmp_path / "zeros", canonical, **GLM)).block(2)
    assert block.linears()["mlp.gate_up_proj"].bias_N is None
    canonical[name][3] = 0.5
    with pytest.raises(CheckpointError, match=rf"1 tensors of the checkpoint have no place[\s\S]*{name}"):
        open_checkpoint(write(tmp_path / "real", canonical, **GLM))


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_quantized_head(tmp_path: Path, canonical: Tensors, symmetric: bool) -> None:
    head = random_quantized(2112, 128, QuantSpec(4, 32, symmetric))
    del canonical["lm_head.weight"]
    canonical |= {f"lm_head.{suffix}": tensor for suffix, tensor in encoded(head, "gptq", name="lm_head").items()}
    read = open_checkpoint(write(tmp_path / "c", canonical, **GLM)).lm_head()
    assert torch.equal(read.dense(), head.dequantize())
