from pathlib import Path

import pytest

from glmquant import api, assets
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.runtime.tokenizer import load_bundle_tokenizer
from glmquant.store.checkpoint import open_checkpoint

TEXT = "如何安装 Debian？ It says [gMASK]."


def test_a_bundles_tokenizer_is_its_checkpoints(tmp_path: Path) -> None:
    source = assets.DEMO_MODEL
    expected = load_tokenizer(source, open_checkpoint(source).config)
    shipped = load_bundle_tokenizer(api.export(assets.DEMO_MODEL, out=tmp_path / "onnx").path)
    assert shipped.encode(TEXT) == expected.encode(TEXT)
    assert shipped.decode(shipped.encode(TEXT)) == TEXT
    assert shipped.prefix_ids == expected.prefix_ids


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_bundle_tokenizer(tmp_path)
