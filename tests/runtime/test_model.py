import os
from pathlib import Path

import numpy as np
import pytest

from glmquant.core.spec import QuantSpec
from glmquant.data.sequences import padded
from glmquant.errors import ExportError, GenerationError
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.session import read_settings
from tests.support.models import GOLDEN_NAMES, golden_expected, golden_source, quantized, random_source

CASES = [(name, profile) for name in GOLDEN_NAMES for profile in ("ort", "standard")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def golden(request, tmp_path_factory):
    name, profile = request.param
    directory = tmp_path_factory.mktemp(name)
    export_bundle(golden_source(name), ExportOptions(profile=profile), directory)
    return OnnxModel.open(directory, num_threads=1), golden_expected(name)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    export_bundle(random_source(), ExportOptions(), directory)
    return OnnxModel.open(directory, num_threads=1)


def in_steps(model: OnnxModel, ids, mask, sizes) -> np.ndarray:
    """Logits of a batch fed in pieces of the given sizes."""
    cache = model.new_cache(len(ids), ids.shape[1] + 3)
    pieces = []
    for size in sizes:
        start = cache.length
        pieces.append(model.forward_with_cache(ids[:, start : start + size], mask[:, : start + size], cache))
    return np.concatenate(pieces, axis=1)


@pytest.mark.parametrize("sizes", [[24], [1] * 24, [10, 1, 1, 5, 7]], ids=["prompt", "tokens", "chunks"])
def test_steps_with_a_cache_equal_the_full_forward(golden, sizes) -> None:
    model, expected = golden
    ids = expected["input_ids"].numpy()
    logits = in_steps(model, ids, np.ones_like(ids), sizes)
    assert np.abs(logits - expected["logits"].numpy()).max() < 1e-5


@pytest.mark.parametrize("sizes", [[24], [12] + [1] * 12, [9, 8, 7]], ids=["prompt", "tokens", "chunks"])
def test_left_padded_steps_equal_the_full_forward(golden, sizes) -> None:
    model, expected = golden
    mask = expected["attention_mask_padded"].numpy()
    logits = in_steps(model, expected["input_ids"].numpy(), mask, sizes)
    assert np.abs(logits - expected["logits_padded"].numpy())[mask == 1].max() < 1e-5


def test_decoding_after_a_right_padded_prompt_equals_the_full_forward(golden) -> None:
    model, expected = golden
    full = expected["input_ids"].numpy()
    # Row 1 has 6 tokens of 10, then both rows go on.
    prompt, mask = full[:, :10].copy(), np.ones((2, 10), np.int64)
    mask[1, 6:] = 0
    cache = model.new_cache(2, 16)
    first = model.forward_with_cache(prompt, mask, cache)
    assert np.abs(first[1, :6] - expected["logits"][1, :6].numpy()).max() < 1e-5
    for step in range(4):
        mask = np.concatenate([mask, np.ones((2, 1), np.int64)], axis=1)
        ids = np.array([[full[0, 10 + step]], [full[1, 6 + step]]])
        logits = model.forward_with_cache(ids, mask, cache)
        assert np.abs(logits[0, 0] - expected["logits"][0, 10 + step].numpy()).max() < 1e-5
        assert np.abs(logits[1, 0] - expected["logits"][1, 6 + step].numpy()).max() < 1e-5


def test_decoding_continues_from_a_truncated_cache(golden) -> None:
    model, expected = golden
    ids, mask = expected["input_ids"].numpy(), np.ones((2, 24), np.int64)
    cache = model.new_cache(2, 24)
    model.forward_with_cache(ids[:, :9], mask[:, :9], cache)
    model.forward_with_cache(ids[:, 3:10] * 0 + 7, mask[:, :16], cache)
    cache.truncate(8)
    logits = model.forward_with_cache(ids[:, 8:], mask, cache)
    assert np.abs(logits - expected["logits"][:, 8:].numpy()).max() < 1e-5
    with pytest.raises(GenerationError, match="cannot be truncated to 25"):
        cache.truncate(25)


def test_kept_logits_are_the_last_of_all(golden) -> None:
    model, expected = golden
    ids, mask = expected["input_ids"].numpy(), expected["attention_mask_padded"].numpy()
    every = model.forward(ids, mask)
    assert every.shape == (2, 24, 2112)
    assert np.array_equal(model.forward(ids, mask, keep=3), every[:, -3:])


def test_info_is_the_models(golden) -> None:
    info = golden[0].info
    assert (info.num_layers, info.num_key_value_heads, info.cache_width, info.vocab_size) == (3, 2, 32, 2112)
    assert (info.max_length, info.eos_ids, info.pad_id, info.accuracy_level) == (2048, (2,), 0, 4)


def greedy(model: OnnxModel, rows: list[list[int]], count: int) -> list[list[int]]:
    """The next tokens of each row, decoded as one left-padded batch with a cache."""
    ids, mask = padded([np.array(row) for row in rows], model.info.pad_id)
    cache = model.new_cache(len(rows), ids.shape[1] + count)
    steps = []
    for _ in range(count):
        ids = model.forward_with_cache(ids, mask, cache, keep=1)[:, -1].argmax(1)[:, None]
        mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
        steps.append(ids)
    return np.concatenate(steps, axis=1).tolist()


@pytest.mark.parametrize("profile", ["ort", "standard"])
def test_a_batch_is_decoded_as_each_row_alone(tmp_path, profile) -> None:
    export_bundle(random_source(), ExportOptions(profile=profile), tmp_path)
    model = OnnxModel.open(tmp_path, num_threads=1)
    rows = [[5, 6, 7], [9], [3, 1, 4, 1, 5, 9, 2, 6], [8, 8]]
    assert greedy(model, rows, 20) == [greedy(model, [row], 20)[0] for row in rows]


@pytest.mark.parametrize("options", [ExportOptions(), ExportOptions(profile="standard", accuracy_level=0)])
def test_logits_of_a_quantized_batch_are_those_of_each_row_alone(tmp_path, options) -> None:
    export_bundle(quantized(random_source(), QuantSpec(4, 32)), options, tmp_path)
    model = OnnxModel.open(tmp_path, num_threads=1)
    rows = [[5, 6, 7, 8, 9], [10], [11, 12, 13]]
    ids, mask = padded([np.array(row) for row in rows], 0)
    batch = model.forward(ids, mask, keep=1)
    right_ids, right_mask = ids.copy(), mask.copy()
    for row, tokens in enumerate(rows):
        right_ids[row], right_mask[row] = np.roll(ids[row], len(tokens)), np.roll(mask[row], len(tokens))
    right = model.forward(right_ids, right_mask)
    for row, tokens in enumerate(rows):
        alone = model.forward(np.array([tokens]), ones(1, len(tokens)), keep=1)[0, -1]
        assert np.abs(batch[row, -1] - alone).max() < 1e-4
        assert np.abs(right[row, len(tokens) - 1] - alone).max() < 1e-4


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.int64)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (ones(1, 3), ones(1, 2), "attention mask of shape"),
        (ones(1, 0), ones(1, 0), "attention mask of shape"),
        (ones(1, 2) * 200, ones(1, 2), "token ids range from 200"),
        (ones(1, 2) * -1, ones(1, 2), "token ids range from -1"),
        (ones(2, 2), np.array([[1, 1], [0, 0]]), "no token"),
        (ones(1, 3), np.array([[1, 0, 1]]), "padding between"),
        (ones(1, 65), ones(1, 65), "65 tokens"),
    ],
)
def test_input_the_model_cannot_take_is_refused(tiny, ids, mask, message) -> None:
    with pytest.raises(GenerationError, match=message):
        tiny.forward(ids, mask)


def test_a_full_cache_is_refused(tiny) -> None:
    cache = tiny.new_cache(1, 4)
    with pytest.raises(GenerationError, match="does not fit the cache"):
        tiny.forward_with_cache(ones(1, 5), ones(1, 5), cache)
    with pytest.raises(GenerationError, match="does not fit the cache"):
        tiny.forward_with_cache(ones(2, 2), ones(2, 2), cache)


def test_float16_cache_gives_float32_logits(tmp_path) -> None:
    export_bundle(random_source(), ExportOptions(dtype="float16"), tmp_path)
    model = OnnxModel.open(tmp_path, num_threads=1)
    ids = np.arange(1, 9)[None]
    logits = in_steps(model, ids, ones(1, 8), [5, 1, 1, 1])
    assert model.info.cache_dtype == "float16"
    assert logits.dtype == np.float32
    assert np.abs(logits - model.forward(ids, ones(1, 8))).max() < 0.02


def test_what_is_no_bundle_is_refused(tmp_path) -> None:
    with pytest.raises(ExportError, match="is not an ONNX bundle"):
        OnnxModel.open(tmp_path / "THUDM" / "chatglm2-6b")
    with pytest.raises(ExportError, match="is not an ONNX bundle"):
        OnnxModel.open(tmp_path)
    export_bundle(random_source(), ExportOptions(), tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match="cannot load"):
        OnnxModel.open(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_weights_are_refused(tmp_path, damage) -> None:
    export_bundle(random_source(), ExportOptions(), tmp_path)
    weights = tmp_path / "model.onnx.data"
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ExportError, match="'model.onnx.data' is missing" if damage == "missing" else "cannot load"):
        OnnxModel.open(tmp_path)


def test_a_bundle_without_its_token_ids_is_refused(tmp_path) -> None:
    export_bundle(random_source(), ExportOptions(), tmp_path)
    (tmp_path / "genai_config.json").write_text('{"model": {}}', encoding="utf-8")
    with pytest.raises(ExportError, match="special token ids"):
        OnnxModel.open(tmp_path)


def test_another_tools_graph_is_refused(tmp_path) -> None:
    import onnx

    export_bundle(random_source(), ExportOptions(), tmp_path)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="not exported by glmquant"):
        OnnxModel.open(tmp_path)


def test_settings_that_are_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "genai_config.json")
    with pytest.raises(ExportError, match="not a regular file"):
        read_settings(tmp_path)
