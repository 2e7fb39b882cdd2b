"""A bundle's tokenizer."""

from pathlib import Path

from glmquant.core.untrusted import read_json
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer


def load_bundle_tokenizer(directory: Path) -> GlmTokenizer:
    """Load the tokenizer from the bundle's ``tokenizer.json`` and ``config.json``.

    Raises:
        CheckpointError: one of them is missing or damaged.
    """
    config_path = directory / "config.json"
    return load_tokenizer(directory, resolve_layout(read_json(config_path), config_path=config_path).config)
