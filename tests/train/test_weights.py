from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.errors import TrainingError
from glmquant.glm.classifier import ClassificationHead
from glmquant.streaming.features import pooled_features
from glmquant.train.weights import TrainableClassifier, stored
from tests.support.training import tiny_model

IDS = [np.array([5, 6, 7, 8]), np.array([9]), np.array([10, 11])]
HEAD = ClassificationHead(
    torch.randn(3, 64, generator=torch.Generator().manual_seed(3)), torch.ones(3), ("a", "b", "c")
)


def test_untrained_models_give_the_checkpoints_logits(tmp_path: Path) -> None:
    checkpoint = tiny_model(tmp_path, architecture="glm4")
    expected = HEAD.linear(pooled_features(checkpoint, IDS))
    for model in (TrainableClassifier.full(checkpoint, HEAD), TrainableClassifier.lora(checkpoint, HEAD, 4, 0)):
        assert (model.logits(IDS) - expected).abs().max() < 1e-4


def test_every_weight_gets_a_gradient(tmp_path: Path) -> None:
    checkpoint = tiny_model(tmp_path, architecture="glm4")
    model = TrainableClassifier.full(checkpoint, HEAD)
    model.logits(IDS).square().sum().backward()
    parameters = model.parameters()
    # Of a block: four linears, a bias, four gains. Besides: embedding, final norm, head and its bias.
    assert len(parameters) == 2 * 9 + 4
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in parameters)


def test_additions_merge_into_the_weights(tmp_path: Path) -> None:
    checkpoint = tiny_model(tmp_path)
    model = TrainableClassifier.lora(checkpoint, HEAD, 4, 0)
    assert len(model.parameters()) == 2 * 4 * 2 + 2
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.05 * noise)
    assert (model.logits(IDS) - HEAD.linear(pooled_features(checkpoint, IDS))).abs().max() > 0.05
    merged = model.head()(pooled_features(model, IDS))
    assert (model.logits(IDS) - merged).abs().max() < 0.05  # merged weights are rounded to float16
    assert model.block(0).linears()["self_attn.qkv_proj"].dense(torch.float16).dtype == torch.float16


def test_a_weight_beyond_the_dtype_is_refused() -> None:
    with pytest.raises(TrainingError, match="does not fit float16"):
        stored(torch.tensor([1e6]), "float16")
