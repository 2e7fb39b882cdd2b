"""The tokenizer that a bundle ships with."""

from pathlib import Path

from glmquant.glm.layouts import resolve_layout
from glmquant.glm.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.store.files import read_json


def load_bundle_tokenizer(directory: Path) -> GlmTokenizer:
    """Read from the bundle's ``tokenizer.json`` and ``config.json``.

    Raises:
        CheckpointError: one of them is missing or damaged.
    """
    config_path = directory / "config.json"
    return load_tokenizer(directory, resolve_layout(read_json(config_path), config_path=config_path).config)
