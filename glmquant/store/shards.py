"""Which files of a checkpoint directory hold its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import MAX_INDEX_BYTES, file_inside, read_json, shown
from glmquant.errors import CheckpointError
from glmquant.store.safetensors_file import read_safetensors
from glmquant.store.tensors import StoredTensor
from glmquant.store.torch_bin import read_torch_bin

READERS: Final[Mapping[str, Callable[[Path], dict[str, StoredTensor]]]] = {
    ".safetensors": read_safetensors,
    ".bin": read_torch_bin,
}
INDEX: Final = "model.safetensors.index.json"
PREFERRED: Final = ("model.safetensors", INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Shards:
    """The weight files of a checkpoint.

    Attributes:
        files: every file read, the index (if any) first.
        stored: tensor name to where it lies.
    """

    files: tuple[Path, ...]
    stored: dict[str, StoredTensor]


def find_shards(directory: Path) -> Shards:
    """The weight files of a directory, safetensors before ``.bin``; only their headers are read.

    Raises:
        CheckpointError: no weights, or an index that names what is not there or lies elsewhere.
    """
    name = next((name for name in PREFERRED if (directory / name).exists()), None) or _only_safetensors(directory)
    path = file_inside(directory, name, where=directory)
    if path.suffix != ".json" and not name.endswith(".json"):
        return Shards((path,), _read(path, name))
    weight_map = _weight_map(path, name)
    files = {
        shard: file_inside(directory, shard, where=f"{path}, weight_map") for shard in sorted(set(weight_map.values()))
    }
    return Shards((path, *files.values()), _merge(path, weight_map, files))


def _only_safetensors(directory: Path) -> str:
    """AutoGPTQ names its one file after the quantization."""
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    if len(names) != 1:
        raise CheckpointError(
            "the checkpoint directory holds no weights" if not names else f"{len(names)} weight files, and no index",
            where=directory,
            expected="one of " + ", ".join(PREFERRED),
            hint="download the checkpoint again, completely",
        )
    return names[0]


def _read(path: Path, name: str) -> dict[str, StoredTensor]:
    reader = READERS.get(Path(name).suffix)
    if reader is None:
        raise CheckpointError(
            f"{shown(name)} is no weight file", where=path, expected="a name that ends in " + " or ".join(READERS)
        )
    return reader(path)


def _weight_map(path: Path, name: str) -> dict[str, str]:
    weight_map = read_json(path, MAX_INDEX_BYTES).get("weight_map")
    kind = name.removesuffix(".index.json").rpartition(".")[2]
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("weight_map is missing", where=path, expected="tensor names and the file each is in")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(f".{kind}"):
            raise CheckpointError(
                f"{shown(tensor)} is said to be in {shown(shard)}",
                where=f"{path}, weight_map",
                expected=f"the name of a .{kind} file",
            )
    return weight_map


def _merge(index: Path, weight_map: Mapping[str, str], files: Mapping[str, Path]) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    home: dict[str, str] = {}
    for shard, path in files.items():
        for name, tensor in _read(path, shard).items():
            if name in stored:
                raise CheckpointError(f"the tensor {shown(name)} is in two shards", where=path, expected="in one")
            stored[name], home[name] = tensor, shard
    for name, shard in weight_map.items():
        if home.get(name) != shard:
            raise CheckpointError(
                f"the tensor {shown(name)} is not in {shown(shard)}",
                where=f"{index}, weight_map",
                hint="download the checkpoint again, completely; its index and its shards do not fit together",
            )
    return stored
