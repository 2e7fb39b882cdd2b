"""The text part of models that see images, against transformers' ``Glm4`` with the same weights."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.store.checkpoint import open_checkpoint
from tests.support.vision import vision_model

IDS = torch.randint(3, 160, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["glm4v", "glm46v", "glm_ocr"])
def test_the_text_part_computes_what_the_whole_model_does(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = vision_model(kind)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(IDS).logits
    with caplog.at_level(logging.WARNING):
        checkpoint = open_checkpoint(tmp_path)
    rows = BaselineSource(checkpoint).logits([Query(row.numpy(), len(row)) for row in IDS])
    found = torch.stack([torch.from_numpy(row) for row in rows])
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5
    assert any("the text part alone is read" in message for message in caplog.messages)
    assert checkpoint.config.architecture == "glm4"


def test_a_draft_layer_of_the_text_part_is_left_out(tmp_path: Path) -> None:
    vision_model("glm_ocr").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"model.language_model.layers.2.enorm.weight": torch.ones(64)}, path, {"format": "pt"})
    values = json.loads((tmp_path / "config.json").read_text())
    values["text_config"]["num_nextn_predict_layers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert open_checkpoint(tmp_path).config.num_hidden_layers == 2
