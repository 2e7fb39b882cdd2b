"""Files that carry a hash of themselves: no byte of one changes unseen."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from glmquant.errors import CheckpointError
from glmquant.store.safetensors_file import write_safetensors
from glmquant.store.sealed_json import read_sealed, sealed
from glmquant.store.sealed_tensors import require_seal, write_sealed

VALUES = {"name": "一", "list": [1, {"x": None}]}


def text_of(values: object) -> bytes:
    return (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode()


def test_sealed_json_is_the_same_json_with_its_hash_in_front(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(sealed(text_of(VALUES)))
    assert read_sealed(path) == (VALUES, True)
    assert list(json.loads(path.read_bytes())) == ["sha256", "name", "list"]
    path.write_bytes(text_of(VALUES))
    assert read_sealed(path) == (VALUES, False)


def test_no_bit_of_sealed_json_changes_unseen(tmp_path: Path) -> None:
    """But in its first bytes the key of the hash itself, without which it is the same file unsealed."""
    path, content = tmp_path / "x.json", sealed(text_of(VALUES))
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        try:
            _, is_sealed = read_sealed(path)
        except CheckpointError:
            continue
        assert not is_sealed, at


@pytest.mark.parametrize("seal", ["0" * 64, "", 1, None])
def test_a_hash_that_is_none_or_stands_elsewhere_seals_nothing(tmp_path: Path, seal: object) -> None:
    path = tmp_path / "x.json"
    for values in ({"sha256": seal, **VALUES}, {**VALUES, "sha256": seal}):
        path.write_bytes(text_of(values))
        with pytest.raises(CheckpointError, match=r"x\.json was changed since it was written"):
            read_sealed(path)


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    quoted = json.dumps({"sha256": "1" * 64})  # within other metadata, before and behind the hash
    write_sealed(path, {"a": torch.arange(4.0), "b": torch.ones(3, 2)}, {"about": quoted, "zzz": quoted})
    return path


def test_sealed_tensors_are_plain_safetensors(tensors: Path) -> None:
    require_seal(tensors)
    with safe_open(tensors, "pt") as file:
        assert file.get_tensor("a").tolist() == [0, 1, 2, 3]
        assert set(file.metadata()) == {"about", "sha256", "zzz"}


def test_no_bit_of_sealed_tensors_changes_unseen(tensors: Path) -> None:
    content = tensors.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        tensors.write_bytes(changed)
        with pytest.raises(CheckpointError):
            require_seal(tensors)
    for other in (content + b"\0", content[:-1]):
        tensors.write_bytes(other)
        with pytest.raises(CheckpointError):
            require_seal(tensors)


def test_tensors_without_a_hash_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": torch.ones(2)}, {"about": "x"})
    with pytest.raises(CheckpointError, match="no hash of itself"):
        require_seal(path)
