"""Quantized caches, and the graph for onnxruntime-genai. Shape suffixes: C key/value heads, E head size."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from glmquant.data.calibration import KeyValueRange
from glmquant.errors import ExportError
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from tests.support.models import GOLDEN_NAMES, golden_expected, golden_source, random_source


def ranges_of(directory, ids: np.ndarray) -> list[KeyValueRange]:
    """Read from the float model's own cache."""
    session = ort.InferenceSession(directory / "model.onnx")
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            feeds[value.name] = np.zeros((len(ids), value.shape[1], 0, value.shape[3]), np.float32)
    names = [value.name for value in session.get_outputs()]
    present = dict(zip(names, map(torch.from_numpy, session.run(names, feeds)), strict=True))

    def absmax(name: str) -> torch.Tensor:
        return present[name].abs().amax((0, 2))

    layers = len(names) // 2
    return [KeyValueRange(absmax(f"present.{i}.key"), absmax(f"present.{i}.value")) for i in range(layers)]


@pytest.fixture(scope="module", params=GOLDEN_NAMES)
def golden(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    source, expected = golden_source(request.param), golden_expected(request.param)
    export_bundle(source, ExportOptions(), directory)
    return source, expected, ranges_of(directory, expected["input_ids"].numpy())


@pytest.mark.parametrize(
    ("kind", "dtype", "width", "tolerance"), [("int8", "int8", 32, 0.01), ("int4", "uint8", 16, 0.2)]
)
def test_a_quantized_cache_is_close_and_decodes_as_it_prefills(golden, tmp_path, kind, dtype, width, tolerance) -> None:
    source, expected, ranges = golden
    export_bundle(source, ExportOptions(kv_cache=kind), tmp_path, key_values=ranges)
    model = OnnxModel.open(tmp_path, num_threads=1)
    assert (model.info.cache_dtype, model.info.cache_width) == (dtype, width)
    ids, mask = expected["input_ids"].numpy(), expected["attention_mask_padded"].numpy()
    full, want = model.forward(ids, mask), expected["logits_padded"].numpy()
    error = np.linalg.norm((full - want)[mask == 1]) / np.linalg.norm(want[mask == 1])
    assert 1e-6 < error < tolerance
    cache = model.new_cache(2, 24)
    steps = [model.forward_with_cache(ids[:, :10], mask[:, :10], cache)]
    steps += [model.forward_with_cache(ids[:, i : i + 1], mask[:, : i + 1], cache) for i in range(10, 24)]
    assert np.abs(np.concatenate(steps, 1) - full)[mask == 1].max() < 2e-5


def test_a_quantized_cache_needs_this_models_ranges(tmp_path) -> None:
    with pytest.raises(ExportError, match="and there are none"):
        export_bundle(random_source(), ExportOptions(kv_cache="int8"), tmp_path)
    other = KeyValueRange(torch.ones(2, 32), torch.ones(2, 32))
    with pytest.raises(ExportError, match="2 layers with keys and values of"):
        export_bundle(random_source(), ExportOptions(kv_cache="int8"), tmp_path, key_values=[other, other])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("profile", ["ort", "standard"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_genai_graph_gives_the_last_real_tokens_logits(tmp_path, profile, side) -> None:
    expected = golden_expected("chatglm2-tiny")
    export_bundle(golden_source("chatglm2-tiny"), ExportOptions(profile=profile), tmp_path)
    session = ort.InferenceSession(tmp_path / "genai.onnx")
    assert session.get_outputs()[0].shape == ["batch_size", 1, 2112]
    assert [value.name for value in session.get_inputs()][:3] == [
        "input_ids",
        "attention_mask",
        "past_key_values.0.key",
    ]
    ids, mask = expected["input_ids"].numpy().copy(), expected["attention_mask_padded"].numpy().copy()
    if side == "right":
        ids[1], mask[1] = np.roll(ids[1], -7), np.roll(mask[1], -7)
    empty = np.zeros((2, 2, 0, 32), np.float32)
    past = {value.name: empty for value in session.get_inputs()[2:]}
    logits = session.run(["logits"], {"input_ids": ids, "attention_mask": mask} | past)[0]
    assert np.abs(logits[:, 0] - expected["logits_padded"][:, -1].numpy()).max() < 1e-5
