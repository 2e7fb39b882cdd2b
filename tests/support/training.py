"""A tiny language model on disk, and labeled texts that a classifier can learn."""

import json
from pathlib import Path

import numpy as np

from glmquant.data.labeled import LabeledSet, read_labeled
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.checkpoints import float_tensors, tiny_config, write_checkpoint

WORDS = {"animal": "abcdefgh", "plant": "ijklmnop", "stone": "qrstuvwx"}


class Letters:
    """Each character is one id; the prefix is 1, 2."""

    prefix_ids = (1, 2)
    sha256 = "letters"

    def encode(self, text: str) -> list[int]:
        return [ord(character) % 150 + 3 for character in text]

    def decode(self, ids: object) -> str:
        raise NotImplementedError


def tiny_model(directory: Path, *, architecture: str = "glm") -> Checkpoint:
    config = tiny_config(architecture=architecture)
    tensors = {
        name: tensor * (0.3 if tensor.ndim == 2 and "embed" not in name else 1.0)
        for name, tensor in float_tensors(config).items()
    }
    return open_checkpoint(write_checkpoint(directory, config, tensors))


def texts(count: int = 240, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of letters, most of them of the label's own."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = list(WORDS)[number % len(WORDS)]
        length = int(rng.integers(3, 12))
        own = "".join(rng.choice(list(WORDS[label]), length))
        rows.append((own + str(rng.choice(list("abcdefghijklmnopqrstuvwx"))) + own[0], label))
    return rows


def labeled(directory: Path, rows: list[tuple[str, str]] | None = None) -> LabeledSet:
    path = directory / "data.jsonl"
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows or texts()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_labeled(path)
