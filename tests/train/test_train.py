"""Training from labeled texts to a checkpoint that opens again."""

import json
from pathlib import Path

import pytest
import torch

from glmquant.data.sequences import encode_texts
from glmquant.errors import DataError, TrainingError
from glmquant.recipe.schema import TrainOptions
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.streaming.features import pooled_features
from glmquant.train import loop
from glmquant.train.report import TrainingReport
from glmquant.train.train import train_classifier
from tests.support.training import Letters, labeled, texts, tiny_model

FAST = {
    "head": {"epochs": 20, "learning_rate": 1e-2},
    "lora": {"epochs": 8, "learning_rate": 1e-2},
    "full": {"epochs": 8, "learning_rate": 3e-3},
}


def train(tmp_path: Path, name: str = "out", num_texts: int = 240, **options: object) -> tuple[TrainingReport, Path]:
    out = tmp_path / name
    out.mkdir(exist_ok=True)
    checkpoint = tiny_model(tmp_path / "model")
    settings = TrainOptions(validation=0.2, batch_size=8, **options)  # type: ignore[arg-type]
    return train_classifier(checkpoint, labeled(tmp_path, texts(num_texts)), Letters(), settings, out), out


def accuracy(checkpoint: Checkpoint, rows: list[tuple[str, str]]) -> float:
    ids = encode_texts([text for text, _ in rows], Letters(), 512).ids
    best = checkpoint.head()(pooled_features(checkpoint, ids)).argmax(1)
    return sum(checkpoint.config.labels[i] == label for i, (_, label) in zip(best, rows, strict=True)) / len(rows)


@pytest.mark.parametrize("mode", ["head", "lora", "full"])
def test_what_is_learnt_is_what_is_stored(tmp_path: Path, mode: str) -> None:
    num_texts = 900 if mode == "head" else 240  # a random frozen model has few features to learn from
    report, out = train(tmp_path, num_texts=num_texts, mode=mode, **FAST[mode])
    checkpoint = open_checkpoint(out)
    assert checkpoint.config.labels == ("animal", "plant", "stone")
    assert accuracy(checkpoint, texts(90, seed=1)) > 0.65  # guessing gives a third
    assert report.best.validation_accuracy > 0.75
    assert [(count.train, count.validation) for count in report.labels] == [(num_texts * 4 // 15, num_texts // 15)] * 3
    assert checkpoint.manifest is not None
    assert checkpoint.manifest.recipe["train"]["mode"] == mode
    assert sorted(path.name for path in out.iterdir() if path.suffix not in (".safetensors", ".json")) == [
        "training.md"
    ]
    assert json.loads((out / "training.json").read_text())["history"]["best"] == report.best.epoch


def test_a_bias_makes_it_a_classifier_head(tmp_path: Path) -> None:
    report, out = train(tmp_path, bias=True, epochs=3)
    weights = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert report.head == "classifier_head"
    assert {"classifier_head.weight", "classifier_head.bias"} <= weights.keys()
    assert open_checkpoint(out).classification_head().is_biased
    report, out = train(tmp_path, "plain", epochs=1)
    weights = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert report.head == "score"
    assert "score.weight" in weights


def test_transformers_computes_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    _, out = train(tmp_path, mode="full", epochs=1)
    checkpoint = open_checkpoint(out)
    ids = encode_texts(["abcabc", "qrst"], Letters(), 512).ids
    ours = checkpoint.head()(pooled_features(checkpoint, ids))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = torch.cat([model(torch.from_numpy(row)[None]).logits for row in ids])
    assert (ours - theirs).abs().max() < 1e-4
    assert model.config.id2label == {0: "animal", 1: "plant", 2: "stone"}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    _, one = train(tmp_path, "one", epochs=2)
    _, two = train(tmp_path, "two", epochs=2)
    _, other = train(tmp_path, "other", epochs=2, seed=1)
    shards = [sorted(path.glob("*.safetensors"))[-1].read_bytes() for path in (one, two, other)]
    assert shards[0] == shards[1] != shards[2]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("mode", ["head", "lora", "full"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    _, whole = train(tmp_path, "whole", mode=mode, epochs=3)
    measure = loop.Trainer._measure
    calls = []

    def killed_in_the_second_epoch(self: loop.Trainer, examples: loop.Indices) -> tuple[float, float]:
        calls.append(1)
        if len(calls) == 2:
            raise KilledError
        return measure(self, examples)

    monkeypatch.setattr(loop.Trainer, "_measure", killed_in_the_second_epoch)
    with pytest.raises(KilledError):
        train(tmp_path, "broken", mode=mode, epochs=3)
    report, broken = train(tmp_path, "broken", mode=mode, epochs=3)
    assert len(calls) == 4  # the first epoch is not done again
    assert len(report.history.epochs) == 3
    for one, other in zip(sorted(whole.iterdir()), sorted(broken.iterdir()), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_training_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    report, _ = train(tmp_path, epochs=200, patience=2, learning_rate=0.05)
    epochs = report.history.epochs
    assert len(epochs) == report.best.epoch + 2 < 200
    assert report.best.validation_accuracy == max(epoch.validation_accuracy for epoch in epochs)
    assert "Learning curve" in report.to_markdown()


@pytest.mark.parametrize(("class_weights", "share"), [("none", 0.25), ("balanced", 0.5)])
def test_balanced_weights_let_a_rare_label_count(tmp_path: Path, class_weights: str, share: float) -> None:
    # Texts that tell nothing leave the share of the labels, as they are weighted, as the best answer.
    rows = [("abc", "animal")] * 60 + [("abc", "plant")] * 20
    options = TrainOptions(
        validation=0.2,
        epochs=30,
        patience=30,
        learning_rate=0.05,
        class_weights=class_weights,  # type: ignore[arg-type]
    )
    checkpoint = tiny_model(tmp_path / "model")
    train_classifier(checkpoint, labeled(tmp_path, rows), Letters(), options, tmp_path)
    trained = open_checkpoint(tmp_path)
    features = pooled_features(trained, encode_texts(["abc"], Letters(), 512).ids)
    assert trained.head()(features).softmax(1)[0, 1].item() == pytest.approx(share, abs=0.03)


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    report, _ = train(tmp_path, epochs=1, max_length=8)
    rows = [text for text, _ in texts()]
    assert report.num_truncated == sum(len(text) > 6 for text in rows) > 0
    assert f"{report.num_truncated} cut at 8 tokens" in report.to_markdown()


def test_an_empty_text_is_refused_by_line(tmp_path: Path) -> None:
    rows = [*texts(9), (" ", "plant")]
    with pytest.raises(DataError, match=r"text 10 of 10 is empty\n  where: data\.jsonl, line 10"):
        train_classifier(tiny_model(tmp_path / "m"), labeled(tmp_path, rows), Letters(), TrainOptions(), tmp_path)


def test_a_rate_that_blows_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss is (nan|inf)|does not fit"):
        train(tmp_path, mode="full", learning_rate=1.0, epochs=30, patience=30, weight_decay=1e5)


def test_a_model_too_large_to_train_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glmquant.train.train.physical_memory", lambda: 1_000_000)
    with pytest.raises(TrainingError, match=r"use train\.mode=head"):
        train(tmp_path, mode="full")
