"""From labeled texts to a checked INT8 classifier, through the verbs and through the command line."""

import json
from pathlib import Path

import pytest
import torch

import glmquant as gq
from glmquant import api, assets
from glmquant.cli import main
from glmquant.errors import CheckError
from glmquant.train import directory
from tests.support.classifiers import golden_classifier

SETTINGS = {"train.mode": "head", "train.validation": 0.2, "check.limits": {"accuracy_drop": 0.2}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first 400 packaged reviews to train on, 60 more to check on."""
    lines = Path(assets.resolve("glmquant:reviews.jsonl")).read_text(encoding="utf-8").splitlines()
    directory = tmp_path_factory.mktemp("data")
    train, test = directory / "train.jsonl", directory / "test.jsonl"
    train.write_text("\n".join(lines[:400]), encoding="utf-8")
    test.write_text("\n".join(lines[400:460]), encoding="utf-8")
    return train, test


@pytest.fixture(scope="module")
def few(data: tuple[Path, Path]) -> Path:
    """A hundred of them, as a directory with a file for each label."""
    directory = data[0].with_name("few")
    directory.mkdir()
    records = [json.loads(line) for line in data[0].read_text(encoding="utf-8").splitlines()[:100]]
    for label in ("正面", "负面"):
        texts = [" ".join(record["text"].split()) for record in records if record["label"] == label]
        (directory / f"{label}.txt").write_text("\n".join(texts), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: tuple[Path, Path]) -> Path:
    out = tmp_path_factory.mktemp("trained") / "classifier"
    report = gq.train_classifier(assets.DEMO_MODEL, data[0], gq.load_recipe("classifier-int8", SETTINGS), out=out)
    assert report.best.validation_accuracy > 0.5
    return out


def test_run(tmp_path: Path, trained: Path, data: tuple[Path, Path]) -> None:
    recipe = gq.load_recipe("classifier-int8", SETTINGS | {"check.tasks": [{"data": str(data[1])}]})
    report = gq.run(trained, recipe, out=tmp_path / "out")
    (task,) = report.tasks
    assert report.verdict in ("pass", "inconclusive")
    assert task.num_examples == 60
    assert task.labels == ("正面", "负面")
    assert task.same_answer > 0.9
    records = [json.loads(line) for line in data[1].read_text(encoding="utf-8").splitlines()]
    results = gq.classify(tmp_path / "out" / "onnx", [record["text"] for record in records])
    right = sum(result.label == record["label"] for result, record in zip(results, records, strict=True))
    assert right / 60 == pytest.approx(task.candidate.accuracy)


def test_a_check_without_labeled_texts_is_refused_at_once(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(CheckError, match="no labeled texts"):
        gq.run(trained, gq.load_recipe("classifier-int8"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_command_trains_quantizes_and_checks(tmp_path: Path, few: Path) -> None:
    out = tmp_path / "out"
    settings = ("--set", "train.test=0.2", "--set", "train.epochs=5", "--quiet", "--inconclusive", "pass")
    command = ("run", assets.DEMO_MODEL, "--recipe", "classifier-int8", "--train-data", few, "--out", out, *settings)
    assert run_cli(*command) == 4, "twenty examples do not show that the classifier is better than chance"
    assert {path.name for path in out.iterdir()} == {
        "classifier",
        "quantized",
        "onnx",
        "report",
        "run.json",
        "test.jsonl",
    }
    report = api.read_report(out / "report")
    training = json.loads((out / "classifier" / "training.json").read_text(encoding="utf-8"))
    assert report.tasks[0].name == "few"
    assert report.tasks[0].num_examples == 20
    assert sum(count["train"] + count["validation"] for count in training["labels"]) == 80
    assert report.tasks[0].same_answer > 0.9
    # What it was checked on is there to check on again.
    again = gq.check(out / "onnx", baseline=out / "classifier", tasks=[out / "test.jsonl"])
    assert again.tasks[0].candidate.accuracy == report.tasks[0].candidate.accuracy


def test_one_command_checks_on_what_the_recipe_names(tmp_path: Path, few: Path, data: tuple[Path, Path]) -> None:
    settings = {"train.data": str(few), "train.epochs": 1, "check.tasks": [{"data": str(data[1])}]}
    report = gq.run(assets.DEMO_MODEL, gq.load_recipe("classifier-int8", settings), out=tmp_path / "out")
    assert report.tasks[0].num_examples == 60
    assert not (tmp_path / "out" / "test.jsonl").exists()


def test_a_stopped_command_resumes_with_what_is_trained(
    tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = gq.load_recipe("classifier-int8", {"train.data": str(few), "train.epochs": 1})
    whole = gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "whole")

    def stopped(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during_export:
        during_export.setattr("glmquant.pipeline.run.export_directory", stopped)
        with pytest.raises(KeyboardInterrupt):
            gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "out")
    assert (tmp_path / "out.partial" / "classifier").is_dir()
    monkeypatch.setattr(directory, "train_classifier", stopped)
    assert gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "out").to_json() == whole.to_json()
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole" / "onnx").iterdir()]
    assert all((tmp_path / "whole" / f).read_bytes() == (tmp_path / "out" / f).read_bytes() for f in files)


def test_a_recipe_that_trains_needs_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("run", assets.DEMO_MODEL, "--recipe", "classifier-int8", "--out", tmp_path / "out") == 2
    assert "train.data" in capsys.readouterr().err
    assert not (tmp_path / "out.partial").exists()


def test_gptq_knows_classifiers(tmp_path: Path) -> None:
    checkpoint = golden_classifier(tmp_path, "chatglm2-tiny", ("a", "b", "c"))
    rules = [{"match": "layers.*", "spec": {"bits": 4, "group_size": 32}, "method": {"kind": "gptq"}}]
    recipe = gq.load_recipe(
        None, {"rules": rules, "calibration.num_samples": 4, "calibration.seq_len": 64, "export.max_length": 64}
    )
    calibration = gq.calibrate(checkpoint, recipe, out=tmp_path / "calibration")
    quantized = gq.quantize(checkpoint, recipe, calibration, out=tmp_path / "quantized")
    assert quantized.is_quantized
    assert quantized.classification_head().is_biased
    bundle = gq.export(quantized, recipe, out=tmp_path / "onnx")
    (result,) = gq.classify(bundle, ["一二三"])
    assert result.label in ("a", "b", "c")
    summary = gq.inspect(checkpoint, recipe)
    assert summary.config.labels == ("a", "b", "c")
    stored = sum(t.numel() for shard in checkpoint.glob("*.bin") for t in torch.load(shard, weights_only=True).values())
    unused = summary.config.vocab_size * summary.config.hidden_size + 8 + 3  # lm_head, frequencies; the head's bias
    assert summary.num_parameters == stored - unused


def run_cli(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_command_line(tmp_path: Path, data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model, onnx = tmp_path / "model", tmp_path / "onnx"
    head = ("--set", "train.mode=head", "--set", "train.epochs=1", "--quiet")
    assert run_cli("train-classifier", assets.DEMO_MODEL, "--data", data[0], "--out", model, *head) == 0
    assert "# Classifier training" in capsys.readouterr().out
    assert run_cli("export", model, "--out", onnx, "--quiet") == 0
    capsys.readouterr()
    assert run_cli("classify", onnx, "很好", "太差了", "--json", "--quiet") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert {first["label"], second["label"]} <= {"正面", "负面"}
    lines = tmp_path / "lines.txt"
    lines.write_text("很好\n太差了\n", encoding="utf-8")
    assert run_cli("classify", onnx, "--file", lines, "--quiet") == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [first["label"], second["label"]]
    assert run_cli("classify", onnx, "") == 2
    assert "is empty" in capsys.readouterr().err
    assert run_cli("classify", onnx) == 2
    assert run_cli("generate", onnx, "你好") == 2
