"""Hints on checks, reports and stored baselines."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import glmquant as gq
from glmquant.evaluation.baseline_cache import Answers, BaselineCache, require_writable_cache
from glmquant.evaluation.classifier import evaluate_classifier, read_classifier_tasks
from glmquant.evaluation.comparable import require_same_model
from glmquant.evaluation.evaluate import read_material
from glmquant.evaluation.metrics import score_tokens
from glmquant.evaluation.plan import Continuation, PlannedExample, label_scores, plan_task
from glmquant.evaluation.regression import require_pairable
from glmquant.evaluation.results import AccuracyReport
from glmquant.evaluation.routing import Routes, compare_routes
from glmquant.evaluation.source import Query
from glmquant.evaluation.stored_baseline import BaselineWriter, open_stored_baseline, require_writable_baseline
from glmquant.evaluation.tasks import Truth
from glmquant.glm.config import ExpertsConfig
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.check_options import CheckOptions, Task
from glmquant.recipe.load import load_recipe, parse_override
from glmquant.recipe.schema import ExportOptions
from glmquant.reports.read import read_report, report_from_dict, report_from_json
from glmquant.reports.write import write_page
from glmquant.store.checkpoint import open_checkpoint
from tests.evaluation.test_plan import reviews
from tests.evaluation.test_stored_baseline import EDITS, changed
from tests.evaluation.test_tasks import data
from tests.hints.follow import follows, met_errors, named, refused
from tests.hints.places import Hint
from tests.store.test_recognize import touch
from tests.support.golden import tokenizer
from tests.support.models import golden_source
from tests.support.paths import CHATGLM2, GOLDEN
from tests.support.reports import report
from tests.support.tokenizers import Letters

FLOAT32 = "if the model runs in float16, a value may have overflowed: export with export.dtype=float32"
AGAIN = "make it again: check with the float checkpoint and `save_baseline`"
TASKS_ALONE = "name them in check.tasks, and nothing in check.text; to `check`, give them as `tasks`"
CHECK_AGAIN = "run check again with this release"
UPGRADE = "upgrade glmquant{}, or run check again with this release"
TOKENIZER = tokenizer("chatglm3-tiny")


def options(path: Path, **more: Any) -> CheckOptions:
    return CheckOptions.model_validate({"text": [str(path)], "num_tokens": 64, "seq_len": 32} | more)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("text of words " * 60)
    return path


@follows("give conversations, or set check.scored=all")
@follows("leave one of them out")
@follows("lower check.seq_len, or, where the model was made for more, export with a larger export.max_length")
@follows("set check.text or check.tasks")
def test_material_is_read(text: Path) -> None:
    refused(lambda: read_material(TOKENIZER, options(text, scored="answers")), "set check.scored=all")
    assert read_material(TOKENIZER, options(text, scored="all"))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b " * 40}]
    chats = text.with_name("chats.jsonl")
    chats.write_text("\n".join(json.dumps({"messages": turns}) for _ in range(9)))
    assert read_material(TOKENIZER, options(chats, scored="answers"))
    copy = Path(shutil.copy(text, text.with_name("copy.txt")))
    refused(lambda: read_material(TOKENIZER, options(text, text=[str(text), str(copy)])), "leave one of them out")
    assert read_material(TOKENIZER, options(text))
    error = refused(lambda: read_material(TOKENIZER, options(text), 20), "lower check.seq_len")
    most = int(str(error.expected).rpartition(" ")[2])
    assert read_material(TOKENIZER, options(text, seq_len=most), 20)
    refused(lambda: read_material(TOKENIZER, options(text, seq_len=most + 1), 20))
    assert read_material(TOKENIZER, options(text), 33)
    refused(lambda: read_material(TOKENIZER, CheckOptions()), "set check.text")
    assert read_material(TOKENIZER, CheckOptions.model_validate({"tasks": [{"data": reviews(text.parent, "a", "b")}]}))


@follows("change the words in the task's `labels`, or the choices")
@follows("set the task's `prompt`")
@follows("shorten the prompt, lower few_shot.count, or export with a larger export.max_length")
def test_a_task_is_planned(tmp_path: Path) -> None:
    path = data(tmp_path, ("x", "1"), ("y", "2"))
    refused(lambda: plan_task(Task(data=path, labels={"1": "same", "2": "same"}), Letters()), "`labels`")
    assert plan_task(Task(data=path, labels={"1": "one", "2": "two"}), Letters())
    empty = data(tmp_path, ("", "1"), ("b", "2"))
    refused(lambda: plan_task(Task(data=empty), Letters()), "`prompt`")
    assert plan_task(Task(data=empty, prompt="Text: {text}\n"), Letters())
    long = Task(data=reviews(tmp_path, "short", "long"), prompt="0123456789{text}")
    refused(lambda: plan_task(long, Letters(), max_length=10), "shorten the prompt")
    assert plan_task(long.model_copy(update={"prompt": "0{text}"}), Letters(), max_length=10)
    assert plan_task(long, Letters(), max_length=20)
    shots = {"count": 1, "data": reviews(tmp_path, "an example", "another")}
    few = Task.model_validate({"data": long.data, "prompt": "{text}", "few_shot": shots})
    refused(lambda: plan_task(few, Letters(), max_length=10), "few_shot.count")
    assert plan_task(few.model_copy(update={"few_shot": None}), Letters(), max_length=10)


@follows(FLOAT32, "metrics")
@follows(FLOAT32, "plan:_require_finite")
@follows("use the checkpoint that the bundle was exported from as the baseline")
def test_finite_logits_of_one_vocabulary_are_scored() -> None:
    logits = np.array([[1e5, 0, 1]], np.float32)
    with np.errstate(over="ignore"):
        overflowed = logits.astype(np.float16).astype(np.float32)
    targets = np.array([1])
    refused(lambda: score_tokens(logits, overflowed, targets), "export.dtype=float32")
    refused(lambda: score_tokens(logits[:, :2], logits, targets), "exported from")
    assert score_tokens(logits, logits, targets)
    example = PlannedExample((Query(np.array([1]), 1),), (Continuation(0, (1,), 1), Continuation(0, (2,), 1)))
    refused(lambda: label_scores(example, [overflowed], 2), "export.dtype=float32")
    assert np.isfinite(label_scores(example, [logits], 2)).all()
    assert ExportOptions(dtype="float32")


@follows("give the checkpoint that the bundle was exported from", "evaluation.classifier")
@follows(TASKS_ALONE)
def test_a_classifier_is_checked_on_tasks_against_its_own_checkpoint(tmp_path: Path, text: Path) -> None:
    refused(lambda: read_classifier_tasks(options(text), ("n", "p"), TOKENIZER, 32))
    chosen = CheckOptions(tasks=(Task(data=reviews(tmp_path, "a", "b")),))
    assert read_classifier_tasks(chosen, ("n", "p"), TOKENIZER, 32)

    @dataclass
    class Candidate:
        labels: tuple[str, ...]
        max_length: int = 32

    def act(source: Any) -> object:
        return evaluate_classifier(Candidate(("n", "p")), source, TOKENIZER, CheckOptions(), report().setting)  # type: ignore[arg-type]

    source = golden_source("chatglm3-tiny")
    refused(lambda: act(replace(source, config=replace(source.config, labels=("a", "b")))), "exported from")
    further = refused(lambda: act(replace(source, config=replace(source.config, labels=("n", "p")))))
    assert further.hint == TASKS_ALONE


@follows("compare with the checkpoint that was quantized")
def test_routes_are_compared_with_the_checkpoints_own() -> None:
    chosen = {0: [torch.tensor([[0, 1]], dtype=torch.int16)]}
    of_four, of_eight = (Routes(ExpertsConfig(count, 2, 32, 1, 1.0, 0), chosen) for count in (4, 8))
    refused(lambda: compare_routes(of_four, of_eight))
    assert compare_routes(of_eight, of_eight)[0].differing == 0


@follows("choose another directory", "require_writable_cache")
def test_another_directory_keeps_baselines(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(lambda: require_writable_cache(tmp_path / "file"))
    require_writable_cache(tmp_path / "another")


@follows("give that checkpoint as `baseline`", "_not_the_same")
@follows("give that checkpoint as `baseline`, and to compare quantizations the other's report as `against`")
def test_a_bundle_is_compared_with_its_own_float_checkpoint(tmp_path: Path) -> None:
    bundle = tmp_path / "onnx"
    bundle.mkdir()
    export_bundle(golden_source("chatglm2-tiny"), ExportOptions(), bundle, tokenizer=tokenizer("chatglm2-tiny"))
    refused(lambda: require_same_model(bundle, open_checkpoint(GOLDEN["chatglm3-tiny"])), "that checkpoint")
    quantized = gq.quantize(CHATGLM2, "int8-rtn", out=tmp_path / "quantized")
    refused(lambda: require_same_model(bundle, open_checkpoint(quantized.path)), "as `against`")
    assert require_same_model(bundle, open_checkpoint(CHATGLM2))


@follows("check both models with the same recipe, baseline and data")
def test_reports_on_the_same_data_are_compared() -> None:
    earlier = report()
    windows = [window.text for window in earlier.language.windows]  # type: ignore[union-attr]
    (task,) = earlier.tasks
    truth = Truth(task.name, task.labels, tuple(answer for answer, _, _ in task.answers), ("t",) * len(task.answers))
    refused(lambda: require_pairable(earlier, windows[1:], [], [truth]))
    refused(lambda: require_pairable(earlier, windows, [], []))
    require_pairable(earlier, windows, [], [truth])


QUERIES = [Query(np.array([5, 6, 7]), 2)]
ROWS = Answers([torch.ones(2, 128)])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "float.safetensors"
    BaselineWriter(path, open_checkpoint(CHATGLM2)).write(QUERIES, ROWS)
    return path


BASELINES: dict[str, tuple[Hint, str]] = {
    "another format": (named(AGAIN, "_description"), "another format"),
    "a missing field": (named(AGAIN, "_description"), "a missing field"),
    "tensors that do not fit": (named(AGAIN, "_require_fitting"), "another tensor"),
    "a configuration of nothing": (named(AGAIN, "open_stored_baseline"), "a configuration of nothing"),
}


@pytest.mark.parametrize("case", BASELINES.values(), ids=BASELINES)
def test_a_baseline_made_again_is_read(tmp_path: Path, stored: Path, case: tuple[Hint, str]) -> None:
    hint, name = case
    spoiled = changed(stored, tmp_path / "spoiled", EDITS[name][0])
    with met_errors() as met:
        refused(lambda: open_stored_baseline(spoiled))
    assert any(each.is_of(hint) for each in met), met
    BaselineWriter(spoiled, open_checkpoint(CHATGLM2)).write(QUERIES, ROWS)
    assert torch.equal(open_stored_baseline(spoiled).read(QUERIES).rows[0], ROWS.rows[0])


@follows("give those, or make it again: check with the float checkpoint and `save_baseline`")
@follows(AGAIN, "_has_no_weights")
@follows(AGAIN, "StoredBaseline.read")
@follows("give {}", "open_stored_baseline")
def test_a_baseline_answers_what_it_was_made_with(tmp_path: Path, stored: Path) -> None:
    cut = open_stored_baseline(changed(stored, tmp_path / "cut", EDITS["rows cut off"][0]))
    refused(lambda: cut.read(QUERIES), AGAIN)
    baseline = open_stored_baseline(stored)
    other = [Query(np.array([8, 9]), 1)]
    refused(lambda: baseline.read(other), "give those")
    refused(lambda: baseline.block(0), AGAIN)
    assert baseline.read(QUERIES)
    BaselineWriter(stored, open_checkpoint(CHATGLM2)).write(other, Answers([torch.ones(1, 128)]))
    assert open_stored_baseline(stored).read(other)
    error = refused(lambda: open_stored_baseline(CHATGLM2 / "config.json"))
    assert open_checkpoint(str(error.hint).removeprefix("give ")).block(0)


@follows("choose another file", "require_writable_baseline")
@follows("choose another file", "BaselineWriter._save")
@follows("make it, or choose another file")
@follows("choose another file", "write_page")
def test_another_file_is_written(tmp_path: Path, stored: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    refused(lambda: require_writable_baseline(tmp_path / "mine"), "choose another file")
    there = tmp_path / "made" / "float.safetensors"
    refused(lambda: require_writable_baseline(there), "make it")
    there.parent.mkdir()
    require_writable_baseline(there)
    writer = BaselineWriter(tmp_path / "mine" / "x", open_checkpoint(CHATGLM2))
    refused(lambda: writer.write(QUERIES, ROWS), "choose another file")
    replace(writer, path=there).write(QUERIES, ROWS)
    refused(lambda: write_page([report()], tmp_path / "mine" / "x.html"), "choose another file")
    write_page([report()], tmp_path / "x.html")


@follows("remove it", "baseline_cache")
@follows("remove the file", "baseline_cache")
@follows("choose another directory, or free space")
def test_a_cache_is_written_again(tmp_path: Path) -> None:
    config = open_checkpoint(CHATGLM2).config
    cache = BaselineCache(tmp_path / "cache", "f", config)
    path = cache.path(QUERIES)
    path.mkdir(parents=True)
    refused(lambda: cache.read(QUERIES), "remove it")
    path.rmdir()
    assert cache.read(QUERIES) is None
    path.write_bytes(b"x")
    refused(lambda: cache.read(QUERIES), "remove the file")
    path.unlink()
    cache.write(QUERIES, ROWS)
    assert torch.equal(cache.read(QUERIES).rows[0], ROWS.rows[0])  # type: ignore[union-attr]
    (tmp_path / "file").write_text("x")
    refused(lambda: BaselineCache(tmp_path / "file" / "cache", "f", config).write(QUERIES, ROWS), "another directory")


def values(**changes: Any) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(report().to_json())
    return written | changes


REPORTS: dict[str, tuple[Hint, Callable[[], object]]] = {
    "an older schema": (named(CHECK_AGAIN, "_other_schema"), lambda: report_from_dict(values(schema=1))),
    "a newer schema": (named(UPGRADE, "_other_schema"), lambda: report_from_dict(values(schema=99))),
    "damaged": (named(CHECK_AGAIN, "report_from_dict"), lambda: report_from_dict(values(verdict="fine"))),
    "a newer field": (named(UPGRADE, "report_from_dict"), lambda: report_from_dict(values(extra=1))),
    "no JSON": (named(CHECK_AGAIN, "report_from_json"), lambda: report_from_json("{")),
}


@pytest.mark.parametrize("case", REPORTS.values(), ids=REPORTS)
def test_a_report_of_this_release_is_read(case: tuple[Hint, Callable[[], object]]) -> None:
    hint, act = case
    with met_errors() as met:
        refused(act)
    assert any(each.is_of(hint) for each in met), met
    assert report_from_json(report().to_json()) == report()


@follows("`report` shows it, and `check` takes it as `against`")
def test_a_directory_with_a_report_is_shown(tmp_path: Path) -> None:
    touch("report.html")(tmp_path)
    (tmp_path / "report.json").write_text(report().to_json())
    refused(lambda: open_checkpoint(tmp_path))
    shown: AccuracyReport = read_report(tmp_path)
    assert shown == report()


def test_tasks_that_a_hint_gives_as_an_example_can_be_set() -> None:
    recipe = load_recipe(None, dict([parse_override("check.tasks=[{data: test.jsonl}]")]))
    assert recipe.check.tasks[0].data == "test.jsonl"
