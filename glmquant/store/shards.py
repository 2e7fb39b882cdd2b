"""Which files of a checkpoint directory hold its tensors."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import DOWNLOAD_AGAIN, MAX_INDEX_BYTES, file_inside, read_json, shown
from glmquant.errors import CheckpointError
from glmquant.store.inert_pickle import MAX_PICKLE_BYTES
from glmquant.store.loose_files import weight_files
from glmquant.store.safetensors_file import read_safetensors
from glmquant.store.tensors import StoredTensor
from glmquant.store.torch_bin import read_torch_bin

log = logging.getLogger("glmquant.store")

Reader = Callable[[Path], dict[str, StoredTensor]]
READERS: Final[Mapping[str, Reader]] = {
    ".safetensors": read_safetensors,
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt"), read_torch_bin),
}
INDEX: Final = "model.safetensors.index.json"
PREFERRED: Final = ("model.safetensors", INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
MOST_NAMED: Final = 5
ALL_PICKLES_BYTES: Final = 4 * MAX_PICKLE_BYTES


@dataclass(frozen=True)
class Shards:
    """The weight files of a checkpoint.

    Attributes:
        files: every file read, links followed; the index (if any) first.
        names: what each is called in the directory.
        stored: tensor name to where it lies.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    stored: dict[str, StoredTensor]


def find_shards(directory: Path) -> Shards:
    """The weight files of a directory, safetensors before others; only their headers are read.

    Without an index or a usual name, the files that lie there are taken where they are one model's
    (:func:`glmquant.store.loose_files.weight_files`).

    Raises:
        CheckpointError: no weights, or an index that names what is not there or lies elsewhere.
    """
    name = next((name for name in PREFERRED if os.path.lexists(directory / name)), None)
    if name is None:
        return _without_index(directory, weight_files(directory))
    path = file_inside(directory, name, where=directory)
    if not name.endswith(".json"):
        return Shards((path,), (name,), _read(path, name))
    weight_map = _weight_map(path, name)
    names = sorted(set(weight_map.values()))
    _refuse_missing(directory, path, names)
    files = {shard: file_inside(directory, shard, where=f"{path}, weight_map") for shard in names}
    stored, home = _merge(files)
    _refuse_other_homes(path, weight_map, home)
    return Shards((path, *files.values()), (name, *files), stored)


def _without_index(directory: Path, names: Sequence[str]) -> Shards:
    files = {name: file_inside(directory, name, where=directory) for name in names}
    if len(files) > 1:
        log.warning("%s has no index: its %d weight files are read together", directory.name, len(files))
    return Shards(tuple(files.values()), tuple(files), _merge(files, f"{len(files)} weight files, and no index: ")[0])


def _read(path: Path, name: str, files: int = 1) -> dict[str, StoredTensor]:
    """The tensors of one of so many ``files``, whose pickles share a bound: a checkpoint's time does not grow with
    the number of names that it gives to one slow file."""
    reader = _reader(path, name)
    if reader is None:
        raise CheckpointError(
            f"{shown(name)} is no weight file", where=path, expected="a name that ends in " + " or ".join(READERS)
        )
    if reader is read_torch_bin:
        return read_torch_bin(path, min(MAX_PICKLE_BYTES, ALL_PICKLES_BYTES // files))
    return reader(path)


def _reader(path: Path, name: str) -> Reader | None:
    """By what the file begins with; by its name, whose reader then says what is wrong, where that tells nothing."""
    named = READERS.get(Path(name).suffix)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return named
    if named is read_torch_bin and start[8:] == b"{":
        return read_safetensors
    return read_torch_bin if named is read_safetensors and start.startswith(b"PK\x03\x04") else named


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


def _refuse_missing(directory: Path, index: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not os.path.lexists(directory / name)]
    if len(missing) > 1:
        raise CheckpointError(
            f"{len(missing)} of the {len(names)} weight files are missing: "
            + ", ".join(shown(name) for name in missing[:MOST_NAMED]),
            where=f"{index}, weight_map",
            expected=f"them in {directory}",
            hint=DOWNLOAD_AGAIN,
        )


def _merge(files: Mapping[str, Path], how: str = "") -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of all files, and the file each is in; ``how`` begins the error for one in two of them."""
    stored: dict[str, StoredTensor] = {}
    home: dict[str, str] = {}
    for shard, path in files.items():
        for name, tensor in _read(path, shard, len(files)).items():
            if name in stored:
                raise CheckpointError(
                    f"{how}the tensor {shown(name)} is in two shards, {shown(home[name])} and {shown(shard)}",
                    where=path,
                    expected="in one",
                    hint="move away the files that are not this model's; an index (*.index.json) tells which are",
                )
            stored[name], home[name] = tensor, shard
    return stored, home


def _refuse_other_homes(index: Path, weight_map: Mapping[str, str], home: Mapping[str, str]) -> None:
    for name, shard in weight_map.items():
        if home.get(name) != shard:
            raise CheckpointError(
                f"the tensor {shown(name)} is not in {shown(shard)}",
                where=f"{index}, weight_map",
                hint="download the checkpoint again, completely; its index and its shards do not fit together",
            )
