"""The text part of models that see images, against transformers' ``Glm4`` with the same weights."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Glm4vConfig, Glm46VConfig, GlmOcrConfig, PreTrainedModel

from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.store.checkpoint import open_checkpoint

TEXT: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [1, 1, 2],
    },
}
VISION: dict[str, Any] = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
IDS = torch.randint(3, 160, (2, 12), generator=torch.Generator().manual_seed(0))


def model_of(kind: str) -> PreTrainedModel:
    text = {**TEXT, **({"head_dim": 16} if kind == "glm_ocr" else {})}
    configs = {"glm4v": Glm4vConfig, "glm46v": Glm46VConfig, "glm_ocr": GlmOcrConfig}
    config = configs[kind](text_config=text, vision_config=VISION, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (1.0 if "norm" in name else 0.0)
    return model


@pytest.mark.parametrize("kind", ["glm4v", "glm46v", "glm_ocr"])
def test_the_text_part_computes_what_the_whole_model_does(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(kind)
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
    model_of("glm_ocr").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"model.language_model.layers.2.enorm.weight": torch.ones(64)}, path, {"format": "pt"})
    values = json.loads((tmp_path / "config.json").read_text())
    values["text_config"]["num_nextn_predict_layers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert open_checkpoint(tmp_path).config.num_hidden_layers == 2
