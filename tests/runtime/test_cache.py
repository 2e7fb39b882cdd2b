"""What both kinds of KV cache promise; that their logits are right is tested with the model."""

import numpy as np
import pytest

from glmquant.errors import GenerationError
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.cache import GrowingCache, KvCache, SharedCache
from glmquant.runtime.model import OnnxModel
from tests.support.models import random_source


@pytest.fixture(scope="module", params=["ort", "standard"])
def model(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    export_bundle(random_source(), ExportOptions(profile=request.param), directory)
    return OnnxModel.open(directory, num_threads=1)


def step(model: OnnxModel, cache: KvCache, tokens: list[int]) -> np.ndarray:
    mask = np.ones((1, cache.length + len(tokens)), np.int64)
    return model.forward_with_cache(np.array([tokens]), mask, cache, keep=1)[0, -1]


def test_the_profile_decides_the_kind(model) -> None:
    kind = GrowingCache if model.info.cache_grows else SharedCache
    cache = model.new_cache(1, 8)
    assert type(cache) is kind
    assert (cache.length, cache.capacity, cache.batch_size) == (0, 8, 1)


def test_steps_and_truncation_move_the_length(model) -> None:
    cache = model.new_cache(1, 8)
    first = step(model, cache, [5, 6, 7])
    second = step(model, cache, [8])
    assert cache.length == 4
    cache.truncate(3)
    assert cache.length == 3
    np.testing.assert_allclose(step(model, cache, [8]), second, atol=1e-6)
    cache.truncate(0)
    np.testing.assert_allclose(step(model, cache, [5, 6, 7]), first, atol=1e-6)


@pytest.mark.parametrize("length", [-1, 1])
def test_a_cache_cannot_be_truncated_to_more_than_it_holds(model, length: int) -> None:
    with pytest.raises(GenerationError, match=f"0 columns cannot be truncated to {length}"):
        model.new_cache(1, 8).truncate(length)
