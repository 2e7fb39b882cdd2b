"""The golden checkpoints, read the plain way."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from glmquant.glm.config import GlmConfig
from glmquant.glm.layouts.layout import Layout
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer

NAMES = ("chatglm2-tiny", "chatglm3-tiny")


def directory(name: str) -> Path:
    return Path(__file__).parents[1] / "golden" / name


def published_config(name: str = "chatglm2-tiny", **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory(name) / "config.json").read_text())
    return values | changes


@cache
def layout(name: str) -> Layout:
    path = directory(name) / "config.json"
    return resolve_layout(published_config(name), config_path=path)


def config(name: str) -> GlmConfig:
    return layout(name).config


@cache
def tokenizer(name: str) -> GlmTokenizer:
    return load_tokenizer(directory(name), config(name))


@cache
def tensors(name: str) -> dict[str, Tensor]:
    """Canonical tensors, float32."""
    published: dict[str, Tensor] = {}
    for shard in sorted(directory(name).glob("*.bin")):
        published |= torch.load(shard, weights_only=True)
    found = {}
    for canonical, source in layout(name).sources.items():
        start, stop = source.rows or (0, source.shape[0])
        assert published[source.name].shape == source.shape
        found[canonical] = published[source.name][start:stop].float()
    return found


@cache
def expected(name: str) -> dict[str, Tensor]:
    return load_file(directory(name) / "expected.safetensors")


@cache
def expected_tokens(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory(name) / "expected_tokens.json").read_text())
    return values
