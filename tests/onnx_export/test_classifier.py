"""Exported classifiers against the publisher's own logits."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.errors import ExportError
from glmquant.glm.block import Block
from glmquant.glm.linear import Linear
from glmquant.methods.rtn import Rtn
from glmquant.onnx_export.classifier import export_classifier
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.session import Settings, open_session
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.classifiers import GOLDEN_NAMES, golden_classifier, golden_expected

LABELS = ("差", "good", "so-so")


@dataclass(frozen=True, eq=False)
class Rounded:
    """A classifier with its linears rounded to nearest."""

    checkpoint: Checkpoint
    spec: QuantSpec

    def __getattr__(self, name: str) -> object:
        return getattr(self.checkpoint, name)

    def block(self, layer: int) -> Block:
        return self.checkpoint.block(layer).mapped(self._rounded, lambda gain: gain)

    def _rounded(self, layer: Linear) -> Linear:
        return Linear(Rtn().quantize(layer.dense(), self.spec, None), layer.bias_N)


def run(directory: Path, ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    session = open_session(directory, Settings((), 0, {}), None, "cpu")
    return session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]


@pytest.mark.parametrize("profile", ["ort", "standard"])
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_publishers_logits(tmp_path: Path, name: str, profile: str) -> None:
    checkpoint = open_checkpoint(golden_classifier(tmp_path, name, LABELS))
    out = tmp_path / "onnx"
    out.mkdir()
    bundle = export_classifier(checkpoint, ExportOptions(profile=profile), out)
    expected = golden_expected(name)
    ids, mask = expected["input_ids"], expected["attention_mask_padded"]
    assert [value.name for value in bundle.inputs] == ["input_ids", "attention_mask"]
    plain, padded = expected["seqcls_logits"].numpy(), expected["seqcls_logits_padded"].numpy()
    assert np.abs(run(out, ids, torch.ones_like(ids)) - plain).max() < 1e-3
    assert np.abs(run(out, ids, mask) - padded).max() < 1e-3
    # The same rows with their padding on the other side, and in a batch of its own.
    right = ids.clone()
    right[1] = ids[1].roll(-7)
    assert np.abs(run(out, right, mask.flip(1)) - padded).max() < 1e-3
    assert np.abs(run(out, ids[1:, 7:], torch.ones(1, 17, dtype=torch.int64)) - padded[1:]).max() < 1e-3


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.05), (4, 0.7)])
def test_quantized(tmp_path: Path, bits: int, bound: float) -> None:
    checkpoint = open_checkpoint(golden_classifier(tmp_path, "chatglm2-tiny", LABELS))
    out = tmp_path / "onnx"
    out.mkdir()
    export_classifier(
        Rounded(checkpoint, QuantSpec(bits, 32)),  # type: ignore[arg-type]
        ExportOptions(embedding=QuantSpec(8, 32)),
        out,
    )
    expected = golden_expected("chatglm2-tiny")
    ids = expected["input_ids"]
    error = np.abs(run(out, ids, torch.ones_like(ids)) - expected["seqcls_logits"].numpy()).max()
    assert 1e-5 < error < bound
    operators = {node.op_type for node in onnx.load(out / "model.onnx", load_external_data=False).graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized", "MatMul"} <= operators  # the head stays float


INT8_ROWS = QuantSpec(8, WHOLE_ROW)


def test_products_of_integers(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(golden_classifier(tmp_path, "chatglm2-tiny", LABELS))
    rounded, out = Rounded(checkpoint, INT8_ROWS), tmp_path / "onnx"
    out.mkdir()
    export_classifier(rounded, ExportOptions(dynamic_int8=True), out)  # type: ignore[arg-type]
    expected = golden_expected("chatglm2-tiny")
    ids, mask = expected["input_ids"], expected["attention_mask_padded"]
    logits = run(out, ids, torch.ones_like(ids))
    # Sums that saturate, as they do without VNNI unless the session asks otherwise, are beyond this bound.
    assert 1e-5 < np.abs(logits - expected["seqcls_logits"].numpy()).max() < 0.05
    operators = [node.op_type for node in onnx.load(out / "model.onnx", load_external_data=False).graph.node]
    assert operators.count("MatMulIntegerToFloat") == 4 * checkpoint.config.num_hidden_layers
    assert "MatMulNBits" not in operators
    # A row is rounded alike alone and in company: its activations have scales of their own.
    alone = run(out, ids[1:, 7:], torch.ones(1, 17, dtype=torch.int64))
    assert np.abs(run(out, ids, mask)[1:] - alone).max() < 1e-5


@pytest.mark.parametrize("spec", [QuantSpec(8, 32), QuantSpec(8, WHOLE_ROW, symmetric=False)])
def test_products_of_integers_need_one_scale_a_row(tmp_path: Path, spec: QuantSpec) -> None:
    checkpoint = open_checkpoint(golden_classifier(tmp_path, "chatglm2-tiny", LABELS))
    with pytest.raises(ExportError, match=r"group_size: -1"):
        export_classifier(Rounded(checkpoint, spec), ExportOptions(dynamic_int8=True), tmp_path)  # type: ignore[arg-type]


def test_config_is_what_optimum_opens(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(golden_classifier(tmp_path, "chatglm2-tiny", LABELS))
    out = tmp_path / "onnx"
    out.mkdir()
    export_classifier(checkpoint, ExportOptions(), out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "glm"
    assert config["architectures"] == ["GlmForSequenceClassification"]
    assert config["id2label"] == {"0": "差", "1": "good", "2": "so-so"}
    assert config["label2id"] == {"差": 0, "good": 1, "so-so": 2}


def test_same_bytes_twice(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(golden_classifier(tmp_path, "chatglm2-tiny", LABELS))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (export_classifier(checkpoint, ExportOptions(), tmp_path / name) for name in ("one", "two"))
    assert one.sha256 == two.sha256


def test_a_classifier_has_no_cache(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(golden_classifier(tmp_path, "chatglm2-tiny", LABELS))
    with pytest.raises(ExportError, match="kv_cache"):
        export_classifier(checkpoint, ExportOptions(kv_cache="int8"), tmp_path)
