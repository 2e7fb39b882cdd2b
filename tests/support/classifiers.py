"""Classifier checkpoints on disk, made of the golden ones."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_NAMES = ("chatglm2-tiny", "chatglm3-tiny")
HEAD_SHARD = "pytorch_model-head.bin"


def golden_expected(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / name / "expected.safetensors")


def golden_classifier(directory: Path, name: str, labels: tuple[str, ...]) -> Path:
    """The golden checkpoint with its head in a shard of its own, in the publisher's layout."""
    out = directory / name
    shutil.copytree(GOLDEN / name, out, ignore=shutil.ignore_patterns("expected*"))
    head = {key: t for key, t in golden_expected(name).items() if key.startswith("classifier_head.")}
    torch.save(head, out / HEAD_SHARD)
    index_path, config_path = out / "pytorch_model.bin.index.json", out / "config.json"
    index = json.loads(index_path.read_text())
    index["weight_map"] |= dict.fromkeys(head, HEAD_SHARD)
    index_path.write_text(json.dumps(index))
    table = {str(number): label for number, label in enumerate(labels)}
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"id2label": table}))
    return out
