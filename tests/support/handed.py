"""Checkpoints in the forms that people hand them over, made from the golden ones and tiny canonical ones."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmquant.store.checkpoint import Checkpoint
from tests.support.checkpoints import GOLDEN, assert_same_block, assert_same_linear

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1018370\n"
HTML_PAGE = b"<!DOCTYPE html>\n<html lang=en><head><title>404</title></head><body>Sorry</body></html>\n"
EMBEDDING = "transformer.embedding.word_embeddings.weight"


def plain(to: Path, name: str = "chatglm2-tiny") -> Path:
    """A whole native checkpoint, its weights in two shards with an index."""
    return Path(shutil.copytree(GOLDEN / name, to, ignore=shutil.ignore_patterns("expected*")))


def weights(name: str = "chatglm2-tiny") -> dict[str, Tensor]:
    shards = [torch.load(path, weights_only=True) for path in sorted((GOLDEN / name).glob("pytorch_model-*.bin"))]
    return {name: tensor for shard in shards for name, tensor in shard.items()}


def without_weights(to: Path, name: str = "chatglm2-tiny") -> Path:
    """Configuration and tokenizer alone."""
    plain(to, name)
    for path in to.glob("pytorch_model*"):
        path.unlink()
    return to


def saved(to: Path, values: Any, file: str = "pytorch_model.bin", **options: Any) -> Path:
    """A native checkpoint whose weight file holds ``values``, as torch.save writes them."""
    without_weights(to)
    (to / file).parent.mkdir(parents=True, exist_ok=True)
    torch.save(values, to / file, **options)
    return to


def edit(directory: Path, drop: tuple[str, ...] = (), **fields: object) -> Path:
    """Changes fields of ``config.json``."""
    path = directory / "config.json"
    values = {name: value for name, value in json.loads(path.read_text(encoding="utf-8")).items() if name not in drop}
    path.write_text(json.dumps(values | fields), encoding="utf-8")
    return directory


def cached(source: Path, cache: Path, name: str = "models--THUDM--chatglm2-6b", revision: str = "abc123") -> Path:
    """Moves a directory's files into the hub's cache; gives the snapshot, which is made of links."""
    repository = cache / name
    snapshot = repository / "snapshots" / revision
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(source.iterdir())):
        blob = f"{revision}{number:034x}"
        file.rename(repository / "blobs" / blob)
        os.symlink(f"../../blobs/{blob}", snapshot / file.name)
    return snapshot


def assert_same_model(ours: Checkpoint, theirs: Checkpoint) -> None:
    """The same weights, whatever form they lie in."""
    assert torch.equal(ours.embedding(), theirs.embedding())
    for layer in range(theirs.config.num_hidden_layers):
        assert_same_block(ours.block(layer), theirs.block(layer))
    assert torch.equal(ours.final_norm(), theirs.final_norm())
    assert_same_linear(ours.lm_head(), theirs.lm_head())
