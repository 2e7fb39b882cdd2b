"""Which files hold the tensors, and indices that lie."""

import json
import os
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glmquant.errors import CheckpointError
from glmquant.store.shards import find_shards
from tests.support.checkpoints import write_shards

ONE, TWO = {"a": torch.ones(2)}, {"b": torch.ones(3)}


def safetensors_shards(directory: Path) -> None:
    save_file(ONE, directory / "model-1.safetensors")
    save_file(TWO, directory / "model-2.safetensors")
    write_index(directory, {"a": "model-1.safetensors", "b": "model-2.safetensors"})


def write_index(directory: Path, weight_map: object, name: str = "model.safetensors.index.json") -> None:
    (directory / name).write_text(json.dumps({"weight_map": weight_map}))


def test_shards_of_either_kind(tmp_path: Path) -> None:
    write_shards(tmp_path, {"pytorch_model-1.bin": ONE, "pytorch_model-2.bin": TWO})
    assert find_shards(tmp_path).stored["b"].path.name == "pytorch_model-2.bin"
    safetensors_shards(tmp_path)
    shards = find_shards(tmp_path)
    assert {name: tensor.path.name for name, tensor in shards.stored.items()} == {
        "a": "model-1.safetensors",
        "b": "model-2.safetensors",
    }
    assert shards.files[0].name == "model.safetensors.index.json"


@pytest.mark.parametrize("name", ["model.safetensors", "gptq_model-4bit-128g.safetensors"])
def test_one_file(tmp_path: Path, name: str) -> None:
    save_file(ONE, tmp_path / name)
    assert set(find_shards(tmp_path).stored) == {"a"}


def test_one_bin_file(tmp_path: Path) -> None:
    torch.save(ONE, tmp_path / "pytorch_model.bin")
    assert set(find_shards(tmp_path).stored) == {"a"}


def test_no_weights_and_too_many(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        find_shards(tmp_path)
    for name in ("x.safetensors", "y.safetensors"):
        save_file(ONE, tmp_path / name)
    with pytest.raises(CheckpointError, match="2 weight files, and no index"):
        find_shards(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "model-1.safetensors", "b": "model-3.safetensors"}, r"'model-3\.safetensors' is missing"),
        ({"a": "../model-1.safetensors"}, "leads out of the checkpoint directory"),
        ({"a": "/tmp/model-1.safetensors"}, "leads out of the checkpoint directory"),
        ({"a": "model-1.bin"}, r"expected: the name of a \.safetensors file"),
        ({"a": 1}, r"'a' is said to be in 1"),
        ({"a": "model-2.safetensors", "b": "model-2.safetensors"}, r"'a' is not in 'model-2\.safetensors'"),
        ({"a": "model-1.safetensors", "c": "model-2.safetensors"}, r"'c' is not in 'model-2\.safetensors'"),
        ({}, "weight_map is missing"),
        ([], "weight_map is missing"),
    ],
)
def test_indices_that_lie(tmp_path: Path, weight_map: object, message: str) -> None:
    safetensors_shards(tmp_path)
    write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_shards(tmp_path)
    assert "index.json" in str(caught.value.where)


def test_an_index_with_a_name_twice(tmp_path: Path) -> None:
    safetensors_shards(tmp_path)
    text = '{"weight_map": {"a": "model-1.safetensors", "a": "model-2.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="the key 'a' is given twice"):
        find_shards(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    safetensors_shards(tmp_path)
    save_file({**ONE, **TWO}, tmp_path / "model-2.safetensors")
    with pytest.raises(CheckpointError, match="'a' is in two shards"):
        find_shards(tmp_path)


def test_one_slow_file_under_many_names_is_refused_at_the_first(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s0.bin", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}" + b"(u" * 150_000 + b".")
    for number in range(1, 40):
        os.link(tmp_path / "s0.bin", tmp_path / f"s{number}.bin")
    write_index(tmp_path, {f"t{number}": f"s{number}.bin" for number in range(40)}, "pytorch_model.bin.index.json")
    started = time.process_time()
    with pytest.raises(CheckpointError, match=r"data\.pkl' has 300004 bytes"):
        find_shards(tmp_path)
    assert time.process_time() - started < 2


def test_a_shard_that_is_a_link_out(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    safetensors_shards(directory)
    (directory / "model-1.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (directory / "model-1.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="link out of the checkpoint directory"):
        find_shards(directory)
