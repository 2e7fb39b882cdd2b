"""Features against a pass of one text at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.errors import CalibrationError
from glmquant.glm.rotary import rms_norm, rotary
from glmquant.progress import silent
from glmquant.store.checkpoint import Checkpoint
from glmquant.streaming import activations, features
from glmquant.streaming.features import pooled_features
from tests.support.blocks import block_forward
from tests.support.training import tiny_model


def one_by_one(checkpoint: Checkpoint, ids: list[np.ndarray]) -> torch.Tensor:
    config, rows = checkpoint.config, []
    for sequence in ids:
        x = checkpoint.embedding()[torch.from_numpy(sequence)].float().unsqueeze(0)
        rope = rotary(config, torch.arange(len(sequence)).unsqueeze(0))
        for layer in range(config.num_hidden_layers):
            x = block_forward(x, checkpoint.block(layer), config, rope)
        rows.append(rms_norm(x[0, -1], checkpoint.final_norm(), config.rms_norm_eps))
    return torch.stack(rows)


def sequences(count: int = 23) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 160, int(rng.integers(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("architecture", ["glm", "glm4"])
def test_batches_change_nothing(tmp_path: Path, architecture: str) -> None:
    checkpoint, ids = tiny_model(tmp_path, architecture=architecture), sequences()
    assert (pooled_features(checkpoint, ids) - one_by_one(checkpoint, ids)).abs().max() < 1e-4


def test_several_turns_and_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, ids = tiny_model(tmp_path / "m"), sequences()
    expected = pooled_features(checkpoint, ids)
    for module in (activations, features):
        monkeypatch.setattr(module, "TOKENS_AT_ONCE", 64)
    monkeypatch.setattr(features, "HIDDEN_AT_ONCE", 100 * 64)
    cache = tmp_path / "cache"
    cache.mkdir()
    seen: list[int] = []
    first = pooled_features(checkpoint, ids, cache=cache, progress=lambda stage, done, total: seen.append(done))
    assert (first - expected).abs().max() < 1e-4  # as above: products of other shapes add up in another order
    assert len(list(cache.iterdir())) > 2
    assert seen == sorted(seen)
    (tmp_path / "m" / "model.safetensors").unlink()  # the second time nothing is computed
    assert torch.equal(pooled_features(checkpoint, ids, cache=cache, progress=silent), first)


def test_foreign_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="token ids span 0 to 160"):
        pooled_features(tiny_model(tmp_path), [np.array([0, 160])])
