import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer

from glmquant.core.spec import QuantSpec
from glmquant.errors import ExportError
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.methods.rtn import Rtn
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from tests.support.models import (
    GOLDEN,
    GOLDEN_NAMES,
    TINY,
    TINY_GLM4,
    MemorySource,
    golden_expected,
    golden_source,
    quantized,
    random_source,
    torch_logits,
)

IDS = torch.randint(0, TINY.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1))
LEFT_PADDED = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])


def onnx_logits(source: MemorySource, options: ExportOptions, directory, ids=IDS, mask=None) -> torch.Tensor:
    export_bundle(source, options, directory)
    model = OnnxModel.open(directory, num_threads=1)
    mask = torch.ones_like(ids) if mask is None else mask
    return torch.from_numpy(model.forward(ids.numpy(), mask.numpy()))


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module", params=GOLDEN_NAMES)
def golden(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    export_bundle(golden_source(request.param), ExportOptions(), directory)
    return OnnxModel.open(directory, num_threads=1), golden_expected(request.param), directory


def test_golden_logits(golden) -> None:
    model, expected, _ = golden
    ids = expected["input_ids"].numpy()
    logits = model.forward(ids, np.ones_like(ids))
    assert np.abs(logits - expected["logits"].numpy()).max() < 1e-5


def test_golden_logits_of_left_padded_rows(golden) -> None:
    model, expected, _ = golden
    mask = expected["attention_mask_padded"].numpy()
    assert mask[1].tolist() == [0] * 7 + [1] * 17
    logits = model.forward(expected["input_ids"].numpy(), mask)
    assert np.abs(logits - expected["logits_padded"].numpy())[mask == 1].max() < 1e-5


def test_golden_logits_of_right_padded_rows(golden) -> None:
    model, expected, _ = golden
    ids, mask = expected["input_ids"].numpy().copy(), expected["attention_mask_padded"].numpy().copy()
    ids[1], mask[1] = np.roll(ids[1], -7), np.roll(mask[1], -7)
    logits = model.forward(ids, mask)
    assert np.abs(logits[1, :17] - expected["logits_padded"][1, 7:].numpy()).max() < 1e-5


def test_graph_passes_the_checker(golden) -> None:
    onnx.checker.check_model(golden[2] / "model.onnx")


@pytest.mark.parametrize("config", [TINY, TINY_GLM4, replace(TINY, position_divisor=4.0, rotary_dim=32)])
def test_float_model_agrees_with_torch(tmp_path, config) -> None:
    source = random_source(config)
    expected = torch_logits(source, IDS, LEFT_PADDED)
    logits = onnx_logits(source, ExportOptions(), tmp_path, mask=LEFT_PADDED)
    real = LEFT_PADDED.bool()
    assert relative_error(logits[real], expected[real]) < 1e-5


@pytest.mark.parametrize(
    "spec",
    [
        *(QuantSpec(bits, 128, symmetric) for bits in (2, 4, 8) for symmetric in (True, False)),
        QuantSpec(4, 16, False),
        QuantSpec(8, 32),
        QuantSpec(4, 256),
        QuantSpec(2, 512, False),
        QuantSpec(4, -1),
        QuantSpec(8, -1, False),
    ],
    ids=str,
)
def test_quantized_model_is_what_it_says(tmp_path, spec) -> None:
    """Columns of 96 and 160 leave every group size above 32 ragged."""
    source = quantized(random_source(), spec)
    logits = onnx_logits(source, ExportOptions(accuracy_level=0), tmp_path)
    assert relative_error(logits, torch_logits(source, IDS)) < 1e-5


def test_golden_with_ragged_groups_is_what_it_says(tmp_path) -> None:
    """352 columns in groups of 128."""
    source = quantized(golden_source("chatglm2-tiny"), QuantSpec(4, 128, False))
    logits = onnx_logits(source, ExportOptions(accuracy_level=0), tmp_path)
    assert relative_error(logits, torch_logits(source, IDS)) < 1e-5


def test_int8_arithmetic_is_close(tmp_path) -> None:
    source = quantized(random_source(), QuantSpec(8, 32))
    logits = onnx_logits(source, ExportOptions(accuracy_level=4), tmp_path)
    assert 1e-4 < relative_error(logits, torch_logits(source, IDS)) < 0.05


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "spec", [QuantSpec(8, 128), QuantSpec(4, 32), QuantSpec(4, 32, False), QuantSpec(2, -1)], ids=str
)
def test_quantized_embedding_is_what_it_says(tmp_path, spec, dtype) -> None:
    source = random_source()
    rounded = replace(source, embedding_VD=Rtn().quantize(source.embedding_VD, spec, None).dequantize())
    logits = onnx_logits(source, ExportOptions(embedding=spec, dtype=dtype), tmp_path)
    assert relative_error(logits, torch_logits(rounded, IDS)) < (1e-5 if dtype == "float32" else 0.005)


@pytest.mark.parametrize("spec", [None, QuantSpec(4, 32), QuantSpec(8, 128, False)], ids=str)
def test_float16_model_is_close(tmp_path, spec) -> None:
    source = random_source(TINY_GLM4) if spec is None else quantized(random_source(), spec)
    logits = onnx_logits(source, ExportOptions(dtype="float16", accuracy_level=0), tmp_path)
    assert relative_error(logits, torch_logits(source, IDS)) < 0.005
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    float16 = onnx.TensorProto.FLOAT16
    assert {value.type.tensor_type.elem_type for value in graph.output} == {float16}
    assert not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in graph.initializer)


def test_the_same_model_gives_the_same_bytes(tmp_path) -> None:
    source = quantized(random_source(), QuantSpec(4, 32))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export_bundle(source, ExportOptions(embedding=QuantSpec(8, 32)), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["config.json", "genai.onnx", "genai_config.json", "model.onnx", "model.onnx.data"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_bundle_describes_what_was_written(tmp_path) -> None:
    bundle = export_bundle(random_source(), ExportOptions(max_length=48), tmp_path)
    graph, weights = (tmp_path / "model.onnx").read_bytes(), (tmp_path / "model.onnx.data").read_bytes()
    assert bundle.path == tmp_path
    assert bundle.sha256 == hashlib.sha256(graph).hexdigest()
    assert hashlib.sha256(weights).hexdigest().encode() in graph
    assert bundle.size == len(graph) + len(weights)
    cache = [f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert [value.name for value in bundle.inputs] == ["input_ids", "attention_mask", *cache]
    assert bundle.inputs[2].shape == ("batch_size", 1, "past_sequence_length", 32)
    assert [value.name for value in bundle.outputs][:2] == ["logits", "present.0.key"]
    assert (bundle.outputs[0].dtype, bundle.outputs[0].shape[2]) == ("FLOAT", 200)
    assert json.loads((tmp_path / "genai_config.json").read_text())["search"]["max_length"] == 48


def test_max_length_is_no_longer_than_the_model_was_made_for(tmp_path) -> None:
    export_bundle(random_source(), ExportOptions(max_length=8192), tmp_path)
    assert OnnxModel.open(tmp_path, num_threads=1).info.max_length == TINY.max_position_embeddings


@pytest.mark.parametrize("field", ["head_dim", "rotary_dim"])
def test_heads_the_operator_cannot_run_are_refused(tmp_path, field) -> None:
    source = random_source(replace(TINY, **{field: 24}))
    with pytest.raises(ExportError, match=f"{field} is 24"):
        export_bundle(source, ExportOptions(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_tokenizer_is_written_beside_the_graph(tmp_path) -> None:
    source = golden_source("chatglm3-tiny")
    tokenizer = load_tokenizer(GOLDEN / "chatglm3-tiny", source.config)
    export_bundle(source, ExportOptions(), tmp_path, tokenizer=tokenizer)
    assert json.loads((tmp_path / "genai_config.json").read_text())["model"]["eos_token_id"] == [2, 2049, 2051]
    assert OnnxModel.open(tmp_path, num_threads=1).info.eos_ids == tokenizer.eos_ids
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("Round 1] and 22", " 1", "你好 3\n\n4"):
        assert saved.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
