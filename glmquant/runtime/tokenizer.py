"""A bundle's tokenizer."""

from pathlib import Path

from glmquant.glm.layouts.hf_config import read_bundle_config
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer


def load_bundle_tokenizer(directory: Path) -> GlmTokenizer:
    """Load the tokenizer from the bundle's ``tokenizer.json`` and ``config.json``.

    Raises:
        CheckpointError: one of them is missing or damaged.
    """
    config_path = directory / "config.json"
    return load_tokenizer(directory, read_bundle_config(config_path), compile_template=False)
