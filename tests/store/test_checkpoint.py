"""Checkpoints opened and read, and the ways in which one can be wrong."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmquant.errors import CheckpointError
from glmquant.glm.block import Block
from glmquant.glm.linear import Linear
from glmquant.glm.rotary import positions_and_mask, rms_norm, rotary
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.blocks import block_forward, weights_of
from tests.support.checkpoints import GOLDEN, float_tensors, random_float, tiny_config, write_checkpoint, write_config

GOLDENS = [GOLDEN / "chatglm2-tiny", GOLDEN / "chatglm3-tiny"]


def torch_tensors(directory: Path) -> dict[str, Tensor]:
    shards = [torch.load(path, weights_only=True) for path in sorted(directory.glob("pytorch_model-*.bin"))]
    return {name: tensor for shard in shards for name, tensor in shard.items()}


@pytest.mark.parametrize("directory", GOLDENS, ids=lambda path: path.name)
def test_golden_checkpoints_hold_the_publishers_tensors(directory: Path) -> None:
    checkpoint, expected = open_checkpoint(directory), torch_tensors(directory)
    assert not checkpoint.is_quantized
    assert checkpoint.manifest is None
    assert torch.equal(checkpoint.embedding(), expected["transformer.embedding.word_embeddings.weight"])
    assert torch.equal(checkpoint.final_norm(), expected["transformer.encoder.final_layernorm.weight"])
    assert torch.equal(dense(checkpoint.lm_head()), expected["transformer.output_layer.weight"])
    for layer in range(3):
        at, block = f"transformer.encoder.layers.{layer}.", checkpoint.block(layer)
        assert block.linears()["self_attn.qkv_proj"].bias_N is not None
        pairs = {
            "input_layernorm.weight": block.attention.gains["input_layernorm"],
            "self_attention.query_key_value.weight": dense(block.linears()["self_attn.qkv_proj"]),
            "self_attention.query_key_value.bias": block.linears()["self_attn.qkv_proj"].bias_N,
            "self_attention.dense.weight": dense(block.linears()["self_attn.o_proj"]),
            "post_attention_layernorm.weight": block.mlp.gains["post_attention_layernorm"],
            "mlp.dense_h_to_4h.weight": dense(block.linears()["mlp.gate_up_proj"]),
            "mlp.dense_4h_to_h.weight": dense(block.linears()["mlp.down_proj"]),
        }
        for name, tensor in pairs.items():
            assert tensor.dtype == torch.float16
            assert torch.equal(tensor, expected[at + name])
    used = [tensor for name, tensor in expected.items() if not name.endswith("inv_freq")]
    assert checkpoint.tensor_bytes == sum(tensor.numel() * 2 for tensor in used)


def dense(linear: Linear) -> Tensor:
    assert isinstance(linear.weight, Tensor)
    return linear.weight


@pytest.mark.parametrize("directory", GOLDENS, ids=lambda path: path.name)
def test_golden_logits(directory: Path) -> None:
    checkpoint, expected = open_checkpoint(directory), load_file(directory / "expected.safetensors")
    config = checkpoint.config
    ids = expected["input_ids"]
    positions, mask = positions_and_mask(torch.ones_like(ids))
    x = checkpoint.embedding().float()[ids]
    for layer in range(config.num_hidden_layers):
        x = block_forward(x, checkpoint.block(layer), config, rotary(config, positions), mask)
    logits = checkpoint.lm_head()(rms_norm(x, checkpoint.final_norm(), config.rms_norm_eps))
    torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ["glm", "glm4"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_canonical_checkpoints(tmp_path: Path, architecture: str, dtype: torch.dtype) -> None:
    config = tiny_config(architecture=architecture)
    tensors = {name: tensor.to(dtype) for name, tensor in float_tensors(config).items()}
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", config, tensors))
    assert checkpoint.config == config
    block: Block = checkpoint.block(1)
    at = "model.layers.1."
    members = [tensors[f"{at}self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(dense(block.linears()["self_attn.qkv_proj"]), torch.cat(members))
    assert block.linears()["self_attn.qkv_proj"].bias_N is not None
    assert torch.equal(
        block.linears()["self_attn.qkv_proj"].bias_N,
        torch.cat([tensors[f"{at}self_attn.{part}_proj.bias"] for part in "qkv"]),
    )
    assert dense(block.linears()["mlp.gate_up_proj"]).dtype == dtype
    for norm in ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"):
        gain, expected = weights_of(block).get(norm), tensors.get(f"{at}{norm}.weight")
        assert (gain is None) == (expected is None)
        assert gain is None or torch.equal(gain, expected)


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    config = tiny_config(tied=True)
    tensors = float_tensors(config)
    del tensors["lm_head.weight"]
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", config, tensors))
    assert torch.equal(dense(checkpoint.lm_head()), checkpoint.embedding())
    assert checkpoint.tensor_bytes == sum(2 * tensor.numel() for tensor in tensors.values())


def test_gate_and_up_may_be_apart(tmp_path: Path) -> None:
    config = tiny_config()
    tensors = float_tensors(config)
    fused = tensors.pop("model.layers.1.mlp.gate_up_proj.weight")
    tensors["model.layers.1.mlp.gate_proj.weight"] = fused[:96].clone()
    tensors["model.layers.1.mlp.up_proj.weight"] = fused[96:].clone()
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", config, tensors))
    assert torch.equal(dense(checkpoint.block(1).linears()["mlp.gate_up_proj"]), fused)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"no tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        open_checkpoint(write_checkpoint(tmp_path / "d", config, tensors))


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    config = tiny_config()
    directory = write_checkpoint(tmp_path / "c", config)
    (directory / "pytorch_model.bin").write_bytes(b"not read")
    assert open_checkpoint(directory).config == config


def copied(directory: Path, target: Path) -> Path:
    return Path(shutil.copytree(directory, target))


def test_the_fingerprint_follows_what_could_change_a_weight(tmp_path: Path) -> None:
    one = copied(GOLDENS[0], tmp_path / "one")
    other = copied(GOLDENS[0], tmp_path / "other")
    shard = other / "pytorch_model-00002-of-00002.bin"
    assert open_checkpoint(one).fingerprint == open_checkpoint(other).fingerprint
    (other / "README.md").write_text("nothing that counts")
    assert open_checkpoint(one).fingerprint == open_checkpoint(other).fingerprint
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    assert open_checkpoint(one).fingerprint != open_checkpoint(other).fingerprint
    edited = copied(GOLDENS[0], tmp_path / "edited")
    edit_config(edited, layernorm_epsilon=1e-6)
    assert open_checkpoint(one).fingerprint != open_checkpoint(edited).fingerprint


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_family_may_have_to_be_said(tmp_path: Path) -> None:
    directory = copied(GOLDENS[1], tmp_path / "c")
    edit_config(directory, _name_or_path="/models/mine")
    (directory / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"model\.family"):
        open_checkpoint(directory)
    assert open_checkpoint(directory, family="chatglm3").config.family == "chatglm3"


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="directory does not exist"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="this is a file"):
        open_checkpoint(GOLDENS[0] / "config.json")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(tmp_path)


Harm = Callable[[Path], object]


def overwrite(name: str, content: bytes) -> Harm:
    return lambda directory: (directory / name).write_bytes(content)


def truncate(name: str, size: int) -> Harm:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:size])


SHARD = "pytorch_model-00002-of-00002.bin"


def integers(shard: Path) -> None:
    torch.save({name: t.to(torch.int8) for name, t in torch.load(shard, weights_only=True).items()}, shard)


HARMS: dict[str, tuple[Harm, str]] = {
    "config is no JSON": (overwrite("config.json", b"{'a': 1}"), r"not valid JSON[\s\S]*config\.json"),
    "config is huge": (overwrite("config.json", b" " * (5 << 20)), "too large for what it is"),
    "config is a link out": (
        lambda d: [(d / "config.json").unlink(), (d / "config.json").symlink_to("/etc/hostname")],
        "link out of the checkpoint directory",
    ),
    "unknown model_type": (lambda d: edit_config(d, model_type="llama"), "model_type"),
    "no model_type": (lambda d: edit_config(d, model_type=None), "model_type"),
    "hidden size of another model": (
        lambda d: edit_config(d, hidden_size=256),
        r"of shape \[[\s\S]*as config\.json has it",
    ),
    "one layer more": (lambda d: edit_config(d, num_layers=4), r"no tensor transformer\.encoder\.layers\.3"),
    "one layer less": (lambda d: edit_config(d, num_layers=2), "7 tensors of the checkpoint have no place"),
    "missing shard": (lambda d: (d / SHARD).unlink(), f"the file '{SHARD}' is missing"),
    "truncated shard": (truncate(SHARD, 300_000), f"truncated or damaged[\\s\\S]*{SHARD}"),
    "empty shard": (truncate(SHARD, 0), "not a PyTorch checkpoint"),
    "other weights, quantized by others": (
        lambda d: [edit_config(d, quantization_config={"quant_method": "awq"}), integers(d / SHARD)],
        "quantized by 'awq'",
    ),
    "damaged manifest": (overwrite("glmquant.json", b"{}"), r"format_version is None[\s\S]*glmquant\.json"),
}


@pytest.mark.parametrize(("harm", "message"), HARMS.values(), ids=HARMS.keys())
def test_bad_checkpoints_are_refused_when_opened(tmp_path: Path, harm: Harm, message: str) -> None:
    directory = copied(GOLDENS[0], tmp_path / "c")
    harm(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(directory)
    assert caught.value.where is not None


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.norm.weight", None, r"no tensor model\.norm\.weight"),
        ("model.norm.weight", random_float(63), r"model\.norm\.weight is torch\.float16 of shape \[63\]"),
        ("model.norm.weight", random_float(64, 1), "of shape"),
        ("model.norm.weight", torch.zeros(64, dtype=torch.int8), r"is torch\.int8"),
        ("model.layers.0.self_attn.k_proj.weight", random_float(32, 64, dtype=torch.float32), "qkv_proj differ"),
        ("model.layers.1.self_attn.k_proj.bias", random_float(32, dtype=torch.float32), "qkv_proj differ"),
        ("adapter.weight", random_float(3, 64), r"have no place in a glm model: 'adapter\.weight'"),
        ("model.norm.qweight", torch.zeros(8, 8, dtype=torch.int32), "have no place"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, name: str, tensor: Tensor | None, message: str) -> None:
    tensors: dict[str, Tensor | None] = {**float_tensors(tiny_config()), name: tensor}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(write_checkpoint(tmp_path / "c", tiny_config(), kept))


@pytest.mark.parametrize("name", ["model.embed_tokens", "model.norm"])
def test_only_linears_may_be_quantized(tmp_path: Path, name: str) -> None:
    tensors = float_tensors(tiny_config())
    del tensors[f"{name}.weight"]
    tensors[f"{name}.qweight"] = torch.zeros(8, 160, dtype=torch.int32)
    directory = write_checkpoint(tmp_path / "c", tiny_config(), tensors)
    with pytest.raises(CheckpointError, match=rf"no tensor {name}\.weight"):
        open_checkpoint(directory)


def test_quantized_without_saying_how(tmp_path: Path) -> None:
    tensors = float_tensors(tiny_config())
    tensors["lm_head.qweight"] = torch.zeros(8, 160, dtype=torch.int32)
    del tensors["lm_head.weight"]
    with pytest.raises(CheckpointError, match="lm_head is quantized, but nothing says how"):
        open_checkpoint(write_checkpoint(tmp_path / "c", tiny_config(), tensors))


READS: dict[str, tuple[str, Callable[[Checkpoint], object]]] = {
    "embedding": ("model.embed_tokens.weight", lambda c: c.embedding()),
    "norm": ("model.norm.weight", lambda c: c.final_norm()),
    "head": ("lm_head.weight", lambda c: c.lm_head()),
    "linear": ("model.layers.1.self_attn.v_proj.weight", lambda c: c.block(1)),
    "bias": ("model.layers.1.self_attn.v_proj.bias", lambda c: c.block(1)),
    "gain": ("model.layers.1.post_attention_layernorm.weight", lambda c: c.block(1)),
}


@pytest.mark.parametrize(("name", "read"), READS.values(), ids=READS.keys())
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_nan_and_inf_are_found_when_read(
    tmp_path: Path, name: str, read: Callable[[Checkpoint], object], value: float
) -> None:
    tensors = float_tensors(tiny_config())
    tensors[name].view(-1)[-1] = value
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", tiny_config(), tensors))
    with pytest.raises(CheckpointError, match=rf"'{name}' holds NaN or Inf[\s\S]*model\.safetensors"):
        read(checkpoint)


def test_a_bin_that_carries_code_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return trace.touch, ()

    write_config(tmp_path / "c", tiny_config())
    torch.save({**float_tensors(tiny_config()), "x": Payload()}, tmp_path / "c" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="carries code"):
        open_checkpoint(tmp_path / "c")
    assert not trace.exists()


def test_code_beside_the_weights_is_not_looked_at(tmp_path: Path) -> None:
    directory = copied(GOLDENS[0], tmp_path / "c")
    (directory / "modeling_chatglm.py").write_text("raise SystemExit")
    assert open_checkpoint(directory).config.num_hidden_layers == 3


def test_opening_reads_no_weights(tmp_path: Path) -> None:
    """A sparse file stands for a checkpoint that no memory would hold."""
    config = replace(tiny_config(), vocab_size=2**24)
    tensors = {
        name: tensor
        for name, tensor in float_tensors(tiny_config()).items()
        if "embed" not in name and "lm_head" not in name
    }
    directory = tmp_path / "c"
    write_config(directory, config)
    save_file(tensors, directory / "model-1.safetensors")
    names, size = ("lm_head.weight", "model.embed_tokens.weight"), 2**24 * 64 * 2
    header = {
        name: {"dtype": "F16", "shape": [2**24, 64], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    encoded = json.dumps(header).encode()
    with (directory / "model-2.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + 2 * size)
    weight_map = {**dict.fromkeys(tensors, "model-1.safetensors"), **dict.fromkeys(names, "model-2.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert open_checkpoint(directory).tensor_bytes > 2 * size
