"""An exported classifier against its checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from glmquant.cli.spelling import as_told
from glmquant.errors import CheckError, DataError
from glmquant.evaluation.classifier import evaluate_classifier, read_classifier_tasks
from glmquant.evaluation.results import ModelFacts, Setting
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.onnx_export.classifier import export_classifier
from glmquant.recipe.check_options import CheckOptions, Limits, Task
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.classify import OnnxClassifier, classify
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.classifiers import golden_classifier

LABELS = ("a", "b", "c")
SETTING = Setting(ModelFacts("candidate", 1), ModelFacts("baseline", 2), 4, ())
TEXTS = ["一二三", "hello there", "x y z", "你好", "long " * 40, "ok"]


@dataclass(frozen=True, eq=False)
class Parts:
    checkpoint: Checkpoint
    model: OnnxClassifier
    tokenizer: GlmTokenizer


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    directory = tmp_path_factory.mktemp("classifier")
    checkpoint = open_checkpoint(golden_classifier(directory, "chatglm2-tiny", LABELS))
    (directory / "onnx").mkdir()
    export_classifier(checkpoint, ExportOptions(max_length=32), directory / "onnx")
    tokenizer = load_tokenizer(checkpoint.path, checkpoint.config)
    return Parts(checkpoint, OnnxClassifier.open(directory / "onnx", num_threads=1), tokenizer)


def options(path: Path, rows: list[tuple[str, str]], **more: object) -> CheckOptions:
    path = path / "task.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows), encoding="utf-8")
    return CheckOptions(tasks=(Task(data=str(path), **more),))  # type: ignore[arg-type]


def test_the_same_model_answers_alike(tmp_path: Path, parts: Parts) -> None:
    answers = [each.label for each in classify(parts.model, TEXTS, parts.tokenizer)]
    wrong = [*answers[:5], next(label for label in LABELS if label != answers[5])]
    chosen = options(tmp_path, list(zip(TEXTS, wrong, strict=True)))
    chosen = chosen.model_copy(
        update={"limits": Limits.model_validate({"accuracy_drop": {"value": 0, "on": "estimate"}})}
    )
    report = evaluate_classifier(parts.model, parts.checkpoint, parts.tokenizer, chosen, SETTING)
    (task,) = report.tasks
    assert task.labels == LABELS
    assert (task.num_examples, task.num_truncated) == (6, 1)
    assert task.baseline.accuracy == task.candidate.accuracy == pytest.approx(5 / 6)
    assert (task.same_answer, task.mcnemar_p, task.accuracy_drop.estimate) == (1.0, 1.0, 0.0)
    assert report.language is None


def test_a_label_the_model_does_not_know(tmp_path: Path, parts: Parts) -> None:
    chosen = options(tmp_path, [("x", "a"), ("y", "d")])
    with pytest.raises(DataError, match=r"unknown label 'd'\n  where: .*, line 2\n  expected: one of: a, b, c"):
        evaluate_classifier(parts.model, parts.checkpoint, parts.tokenizer, chosen, SETTING)


def test_an_empty_text_is_refused_by_line(tmp_path: Path, parts: Parts) -> None:
    chosen = options(tmp_path, [("x", "a"), ("", "b")])
    with pytest.raises(DataError, match=r"empty\n  where: .*, line 2"):
        evaluate_classifier(parts.model, parts.checkpoint, parts.tokenizer, chosen, SETTING)


def test_only_tasks_are_checked(tmp_path: Path, parts: Parts) -> None:
    for chosen in (CheckOptions(), CheckOptions(text=("a.txt",)), options(tmp_path, [("x", "a")], labels={"a": "x"})):
        with pytest.raises(CheckError):
            evaluate_classifier(parts.model, parts.checkpoint, parts.tokenizer, chosen, SETTING)


def test_other_labels_are_another_classifier(tmp_path: Path, parts: Parts) -> None:
    other = open_checkpoint(golden_classifier(tmp_path, "chatglm2-tiny", ("c", "b", "a")))
    with pytest.raises(CheckError, match="the bundle's labels"):
        evaluate_classifier(parts.model, other, parts.tokenizer, options(tmp_path, [("x", "a")]), SETTING)


def test_what_only_a_language_model_is_checked_on_is_told_for_a_recipe_and_for_a_check(parts: Parts) -> None:
    """`run` takes neither tasks nor texts of its own."""
    with pytest.raises(CheckError, match="labeled texts only") as error:
        read_classifier_tasks(CheckOptions(text=("a.txt",), tasks=(Task(data="b.csv"),)), LABELS, parts.tokenizer, 32)
    hint = as_told(error.value).rpartition("hint: ")[2]
    assert "check.tasks" in hint
    assert "to `glmquant check`, give them as `--task`" in hint
