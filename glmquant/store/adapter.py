"""A LoRA adapter's directory, opened: every tensor of it is known by its name, and none is read yet.

PEFT writes ``adapter_config.json`` and ``adapter_model.safetensors``, earlier ``adapter_model.bin``.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from glmquant.core.near import did_you_mean
from glmquant.core.untrusted import cached_repository, file_inside
from glmquant.errors import CheckpointError, Parameter
from glmquant.store.adapter_config import ADAPTER_CONFIG, AdapterConfig, read_adapter_config
from glmquant.store.adapter_tensors import AdapterTensors, LowRank
from glmquant.store.shards import READERS
from glmquant.store.tensors import CHUNK_BYTES, StoredTensor

WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter on disk.

    Attributes:
        path: the directory.
        weights: the file with its tensors.
        additions: by module name.
        copies: what was trained as a whole, by tensor name (``lm_head.weight``).
    """

    path: Path
    config: AdapterConfig
    weights: Path
    additions: Mapping[str, LowRank]
    copies: Mapping[str, StoredTensor]

    @property
    def name(self) -> str:
        """The directory's; that of the repository, for a snapshot in the hub's cache."""
        repository = cached_repository(self.path)
        return self.path.name if repository is None else repository.name.rpartition("--")[2]

    @cached_property
    def sha256(self) -> str:
        """Of the file of weights, as ``sha256sum`` gives it."""
        digest = hashlib.sha256()
        with self.weights.open("rb") as file:
            while part := file.read(CHUNK_BYTES):
                digest.update(part)
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what decides the merged weights: configuration and tensors."""
        return hashlib.sha256(self.config.path.read_bytes() + self.sha256.encode()).hexdigest()


def open_adapter(directory: str | Path) -> Adapter:
    """Opens an adapter's directory as PEFT writes it; no code of it runs.

    Raises:
        CheckpointError: no adapter, one that is not LoRA, or tensors of which one is missing, damaged, or unknown.
    """
    path = _existing(directory)
    config = read_adapter_config(file_inside(path, ADAPTER_CONFIG, where=path))
    kept = _weights_name(path)
    weights = file_inside(path, kept, where=path)
    tensors = AdapterTensors(weights)
    for name, tensor in READERS[Path(kept).suffix](weights).items():
        tensors.add(name, tensor)
    if not tensors.halves and not tensors.copies:
        raise CheckpointError(
            "the adapter holds no tensors",
            where=weights,
            expected="lora_A and lora_B of each adapted module",
            hint="give the adapter of one of the training's checkpoints, if that holds some",
        )
    return Adapter(path, config, weights, tensors.additions(config), tensors.copies)


def _existing(directory: str | Path) -> Path:
    path = Path(directory)
    if not path.is_dir():
        raise CheckpointError(
            "the adapter's directory does not exist" if not path.exists() else "an adapter is a directory, not a file",
            where=Parameter("adapter", str(directory)),
            expected=f"a directory on this machine with {ADAPTER_CONFIG} and {WEIGHTS[0]}",
            hint=did_you_mean(path, "directory") or _from_hub(str(directory)),
        )
    if (path / ADAPTER_CONFIG).exists():
        return path.resolve()
    raise CheckpointError(
        f"the directory has no {ADAPTER_CONFIG}",
        where=path,
        expected="a LoRA adapter as PEFT writes it",
        hint=_instead(path),
    )


def _from_hub(text: str) -> str | None:
    return f"`hf download {text}` says where it puts it: give that" if _HUB_ID.fullmatch(text) else None


def _instead(path: Path) -> str:
    """What to do with a directory that is no adapter."""
    below = sorted(found.parent for way in ("*", "snapshots/*") for found in path.glob(f"{way}/{ADAPTER_CONFIG}"))
    if below:
        return f"there is one in {below[-1]}" + (f", and in {len(below) - 1} beside it" if below[1:] else "")
    if (path / "config.json").exists():
        return "it holds a config.json, as a whole model does: give it as the model, without an adapter"
    return "give the directory that the training saved its adapter to"


def _weights_name(path: Path) -> str:
    name = next((name for name in WEIGHTS if os.path.lexists(path / name)), None)
    if name is None:
        raise CheckpointError(
            "the adapter's directory holds no weights",
            where=path,
            expected=" or ".join(WEIGHTS),
            hint="download or copy the adapter again, completely",
        )
    return name
