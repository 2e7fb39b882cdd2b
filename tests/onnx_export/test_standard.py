from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from glmquant.core.spec import QuantSpec
from glmquant.errors import ExportError
from glmquant.methods.rtn import Rtn
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from tests.support.models import (
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
STANDARD = ExportOptions(profile="standard", accuracy_level=0)


def onnx_logits(source: MemorySource, options: ExportOptions, directory, mask=None) -> torch.Tensor:
    export_bundle(source, options, directory)
    model = OnnxModel.open(directory, num_threads=1)
    mask = torch.ones_like(IDS) if mask is None else mask
    return torch.from_numpy(model.forward(IDS.numpy(), mask.numpy()))


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


def assert_is_plain_onnx(directory) -> None:
    for name in ("model.onnx", "genai.onnx"):
        model = onnx.load(directory / name, load_external_data=False)
        assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 23)}
        assert {node.domain for node in model.graph.node} == {""}
        onnx.checker.check_model(str(directory / name), full_check=True)


@pytest.fixture(scope="module", params=GOLDEN_NAMES)
def golden(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    export_bundle(golden_source(request.param), STANDARD, directory)
    return OnnxModel.open(directory, num_threads=1), golden_expected(request.param), directory


def test_golden_logits(golden) -> None:
    model, expected, _ = golden
    ids = expected["input_ids"].numpy()
    assert np.abs(model.forward(ids, np.ones_like(ids)) - expected["logits"].numpy()).max() < 1e-5


def test_golden_logits_of_padded_rows(golden) -> None:
    model, expected, _ = golden
    ids, mask = expected["input_ids"].numpy().copy(), expected["attention_mask_padded"].numpy().copy()
    left = model.forward(ids, mask)
    assert np.abs(left - expected["logits_padded"].numpy())[mask == 1].max() < 1e-5
    ids[1], mask[1] = np.roll(ids[1], -7), np.roll(mask[1], -7)
    right = model.forward(ids, mask)
    assert np.abs(right[1, :17] - expected["logits_padded"][1, 7:].numpy()).max() < 1e-5


def test_it_is_plain_onnx(golden) -> None:
    assert_is_plain_onnx(golden[2])


@pytest.mark.parametrize("config", [TINY, TINY_GLM4, replace(TINY, position_divisor=4.0, rotary_dim=24, head_dim=40)])
def test_float_model_agrees_with_torch(tmp_path, config) -> None:
    source = random_source(config)
    logits = onnx_logits(source, STANDARD, tmp_path, LEFT_PADDED)
    real = LEFT_PADDED.bool()
    assert relative_error(logits[real], torch_logits(source, IDS, LEFT_PADDED)[real]) < 1e-5


@pytest.mark.parametrize(
    "spec",
    [
        *(QuantSpec(bits, 128, symmetric) for bits in (4, 8) for symmetric in (True, False)),
        QuantSpec(4, 16, False),
        QuantSpec(8, 32),
        QuantSpec(4, -1),
    ],
    ids=str,
)
def test_quantized_model_is_what_it_says(tmp_path, spec) -> None:
    """Columns of 96 and 160 leave every group size above 32 ragged."""
    source = quantized(random_source(), spec)
    logits = onnx_logits(source, STANDARD, tmp_path)
    assert relative_error(logits, torch_logits(source, IDS)) < 1e-5
    assert_is_plain_onnx(tmp_path)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_quantized_embedding_is_what_it_says(tmp_path, dtype, symmetric) -> None:
    spec, source = QuantSpec(8, 128, symmetric), random_source()
    rounded = replace(source, embedding_VD=Rtn().quantize(source.embedding_VD, spec, None).dequantize())
    logits = onnx_logits(source, STANDARD.model_copy(update={"embedding": spec, "dtype": dtype}), tmp_path)
    assert relative_error(logits, torch_logits(rounded, IDS)) < (1e-5 if dtype == "float32" else 0.005)


def test_float16_model_is_close(tmp_path) -> None:
    source = quantized(random_source(), QuantSpec(4, 32))
    logits = onnx_logits(source, STANDARD.model_copy(update={"dtype": "float16"}), tmp_path)
    assert relative_error(logits, torch_logits(source, IDS)) < 0.005
    assert_is_plain_onnx(tmp_path)


def test_two_bits_are_refused(tmp_path) -> None:
    with pytest.raises(ExportError, match=r"qkv_proj\.weight has 2 bits"):
        export_bundle(quantized(random_source(), QuantSpec(2, 32)), STANDARD, tmp_path)
