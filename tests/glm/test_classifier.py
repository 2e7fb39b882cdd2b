"""Heads read and written under both names, and held to the publisher's own logits."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glmquant.errors import CheckpointError
from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.rotary import positions_and_mask, rms_norm, rotary
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.blocks import block_forward
from tests.support.checkpoints import float_tensors, tiny_config, write_config
from tests.support.classifiers import GOLDEN_NAMES, golden_classifier, golden_expected

LABELS = ("bad", "good", "so-so")


def logits(checkpoint: Checkpoint, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    config = checkpoint.config
    positions_BT, mask = positions_and_mask(mask_BT)
    rope = rotary(config, positions_BT)
    x_BTD = checkpoint.embedding()[ids_BT].float()
    for layer in range(config.num_hidden_layers):
        x_BTD = block_forward(x_BTD, checkpoint.block(layer), config, rope, mask)
    last_B = (mask_BT.bool() * torch.arange(mask_BT.shape[1])).argmax(1)
    pooled_BD = rms_norm(x_BTD[torch.arange(len(x_BTD)), last_B], checkpoint.final_norm(), config.rms_norm_eps)
    return checkpoint.head()(pooled_BD)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_publishers_logits(tmp_path: Path, name: str) -> None:
    checkpoint = open_checkpoint(golden_classifier(tmp_path, name, LABELS))
    expected = golden_expected(name)
    ids = expected["input_ids"]
    assert checkpoint.config.labels == LABELS
    plain = logits(checkpoint, ids, torch.ones_like(ids))
    padded = logits(checkpoint, ids, expected["attention_mask_padded"])
    assert (plain - expected["seqcls_logits"]).abs().max() < 1e-4
    assert (padded - expected["seqcls_logits_padded"]).abs().max() < 1e-4


def test_a_head_without_bias_fits_both_names() -> None:
    head = ClassificationHead(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), None, ("a", "b"))
    assert list(head.tensors("score")) == ["score.weight"]
    written = head.tensors("classifier_head")
    assert written["classifier_head.bias"].tolist() == [0.0, 0.0]
    assert head.linear(torch.tensor([[1.0, 1.0]])).tolist() == [[3.0, 7.0]]


def test_a_bias_is_never_dropped() -> None:
    head = ClassificationHead(torch.zeros(2, 2), torch.tensor([0.0, 1e-6]), ("a", "b"))
    with pytest.raises(CheckpointError, match="`score` head has none"):
        head.tensors("score")
    zero = ClassificationHead(torch.zeros(2, 2), torch.zeros(2), ("a", "b"))
    assert "score.weight" in zero.tensors("score")


def test_score_of_transformers_is_read(tmp_path: Path) -> None:
    config = tiny_config()
    score = torch.randn(2, config.hidden_size, generator=torch.Generator().manual_seed(1))
    tensors = {name: t for name, t in float_tensors(config).items() if name != "lm_head.weight"}
    write_config(tmp_path, config, id2label={"0": "no", "1": "yes"})
    save_file(tensors | {"score.weight": score}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    head = checkpoint.classification_head()
    assert head.labels == ("no", "yes")
    assert head.bias_L is None
    assert torch.equal(head.weight_LD, score)
    with pytest.raises(CheckpointError, match="no language-model head"):
        checkpoint.lm_head()


def test_a_language_model_has_no_classification_head(tmp_path: Path) -> None:
    config = tiny_config()
    write_config(tmp_path, config)
    save_file(float_tensors(config), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no classification head"):
        open_checkpoint(tmp_path).classification_head()


@pytest.mark.parametrize(
    "table",
    [{"0": "a"}, {"0": "a", "2": "b"}, {"0": "a", "1": "a"}, {"0": "a", "1": 3}, {"0": "a", "1": " "}, ["a", "b"]],
)
def test_labels_must_name_every_row_once(tmp_path: Path, table: object) -> None:
    path = golden_classifier(tmp_path, "chatglm2-tiny", LABELS)
    values = json.loads((path / "config.json").read_text()) | {"id2label": table}
    (path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="id2label"):
        open_checkpoint(path)


def test_rows_must_fit_the_labels(tmp_path: Path) -> None:
    path = golden_classifier(tmp_path, "chatglm2-tiny", LABELS)
    values = json.loads((path / "config.json").read_text())
    del values["id2label"]
    (path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"classifier_head\.weight"):
        open_checkpoint(path)
    (path / "config.json").write_text(json.dumps(values | {"num_labels": 3}))
    assert open_checkpoint(path).config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
