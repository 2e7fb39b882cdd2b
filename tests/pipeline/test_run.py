"""A whole run: what is refused at once, what is kept, and what a second one does."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import glmquant as gq
from glmquant import assets
from glmquant.store import output
from tests.hints.follow import follows
from tests.support.paths import GOLDEN, contents, lasting

MODEL = GOLDEN["chatglm2-tiny"]
FEW = {
    "calibration.num_samples": 8,
    "calibration.seq_len": 32,
    "check.num_tokens": 256,
    "check.seq_len": 64,
    "check.text": ["glmquant:held-out-en.txt"],
}


def recipe(name: str = "int4-g128-gptq-fast", **changes: Any) -> gq.Recipe:
    return gq.load_recipe(name, FEW | {key.replace("__", "."): value for key, value in changes.items()})


class Stages:
    """The stages a run has gone through."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.seen.add(stage)


def too_short(directory: Path) -> dict[str, Any]:
    (directory / "held_out.txt").write_text("Too little text to measure anything on.\n")
    return {"check__text": [str(directory / "held_out.txt")]}


def misspelled(directory: Path) -> dict[str, Any]:
    return {"check__text": [str(directory / "held_otu.txt")]}


def in_gb18030(directory: Path) -> dict[str, Any]:
    (directory / "zh.txt").write_bytes("量化模型的精度".encode("gb18030") * 2000)
    return {"check__text": [str(directory / "zh.txt")]}


def task_without_labels(directory: Path) -> dict[str, Any]:
    (directory / "task.jsonl").write_text('{"text": "good", "sentiment": 1}\n' * 9)
    return {"check__tasks": [{"data": str(directory / "task.jsonl")}]}


def few_shot_missing(directory: Path) -> dict[str, Any]:
    (directory / "task.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n' * 9)
    return {"check__tasks": [{"data": str(directory / "task.jsonl"), "few_shot": {"data": "nope.jsonl"}}]}


def window_beyond_the_context(directory: Path) -> dict[str, Any]:
    return {"check__seq_len": 100_000, "check__num_tokens": 100_000}


LATE = {
    "qwopqwop200/GPTQ-for-LLaMa#107: an evaluation that ends hours of quantizing": too_short,
    "PaddlePaddle/PaddleDetection#1388: no dataset where the evaluation looks for it": misspelled,
    "HuiZhang0812/DiffusionAD#18: an error at the end of training, of the dataset's path": few_shot_missing,
    "tatsu-lab/stanford_alpaca#42: nothing to evaluate on, found at the end": task_without_labels,
    "hiyouga/LlamaFactory#4106: held-out text in another encoding": in_gb18030,
    "windows longer than the context": window_beyond_the_context,
}


@pytest.mark.parametrize("spoil", LATE.values(), ids=LATE)
def test_what_the_check_cannot_read_stops_the_run_before_any_weight(
    tmp_path: Path, spoil: Callable[[Path], dict[str, Any]]
) -> None:
    stages = Stages()
    with pytest.raises(gq.GlmQuantError):
        gq.run(MODEL, recipe(**spoil(tmp_path)), out=tmp_path / "out", progress=stages)
    assert not stages.seen
    assert not list(tmp_path.glob("out*"))


def test_an_earlier_report_of_other_data_stops_the_run_before_any_weight(tmp_path: Path) -> None:
    earlier = gq.run(MODEL, recipe("int8-rtn"), out=tmp_path / "earlier")
    stages = Stages()
    with pytest.raises(gq.CheckError, match=r"4 windows of held-out-en\.txt, and now 2 windows"):
        gq.run(MODEL, recipe("int8-rtn", check__num_tokens=128), against=earlier, out=tmp_path / "out", progress=stages)
    assert not stages.seen


def test_an_occupied_output_stops_the_run_before_any_weight(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    stages = Stages()
    with pytest.raises(gq.OutputError, match="not empty"):
        gq.run(MODEL, recipe(), out=tmp_path / "out", progress=stages)
    assert not stages.seen
    assert contents(tmp_path) == {"out/mine.txt": b"keep me"}


def test_a_cache_that_cannot_be_written_stops_the_run_before_any_weight(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    stages = Stages()
    with pytest.raises(gq.OutputError, match="cannot keep the baseline"):
        gq.run(MODEL, recipe(), out=tmp_path / "out", cache=tmp_path / "file" / "below", progress=stages)
    assert not stages.seen


def test_a_disk_without_room_stops_the_run_before_any_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """facebookresearch/fastText#1200: what did not fit on the disk was found when it was loaded."""
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    stages = Stages()
    with pytest.raises(gq.OutputError, match=r"0\.00 GB free"):
        gq.run(MODEL, recipe(), out=tmp_path / "out", progress=stages)
    assert not stages.seen


def test_a_later_stages_error_keeps_the_finished_ones(tmp_path: Path) -> None:
    """qwopqwop200/GPTQ-for-LLaMa#107. The text is there when the run begins, and gone when the check reads it."""
    text = tmp_path / "held_out.txt"
    shutil.copy(Path(assets.resolve("glmquant:held-out-en.txt")), text)

    def lose_it(stage: str, done: int, total: int) -> None:
        text.unlink(missing_ok=True)

    given = recipe(check__text=[str(text)])
    with pytest.raises(gq.DataError, match="no such file"):
        gq.run(MODEL, given, out=tmp_path / "out", progress=lose_it)
    assert {path.name for path in (tmp_path / "out.partial").iterdir() if path.is_dir()} == {"quantized", "onnx"}

    shutil.copy(Path(assets.resolve("glmquant:held-out-en.txt")), text)
    stages = Stages()
    gq.run(MODEL, given, out=tmp_path / "out", progress=stages)
    assert stages.seen == {"baseline, block by block", "comparing, tokens"}
    whole = gq.run(MODEL, given, out=tmp_path / "whole")
    assert lasting(tmp_path / "out") == lasting(tmp_path / "whole")
    assert gq.read_report(tmp_path / "out" / "report") == whole


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("quantized/model-00002-of-*", {"quantizing"}),
        ("quantized/tokenizer.json", {"quantizing"}),
        ("onnx/model.onnx.data", {"exporting"}),
        ("onnx/glmquant.json", {"exporting"}),
    ],
)
def test_a_finished_stage_that_changed_behind_the_run_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, again: set[str]
) -> None:
    stopped_before_the_report(tmp_path / "out", monkeypatch)
    (path,) = (tmp_path / "out.partial").glob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    seen = Stages()
    gq.run(MODEL, recipe(), out=tmp_path / "out", progress=seen)
    assert seen.seen == {*again, "baseline, block by block", "comparing, tokens"}
    assert f"{name.partition('/')[0]} is no longer what the unfinished run wrote" in caplog.text
    gq.run(MODEL, recipe(), out=tmp_path / "whole")
    assert lasting(tmp_path / "out") == lasting(tmp_path / "whole")


def test_other_texts_to_check_by_cost_no_second_quantization(tmp_path: Path) -> None:
    text = tmp_path / "held_out.txt"
    shutil.copy(Path(assets.resolve("glmquant:held-out-en.txt")), text)
    with pytest.raises(gq.DataError):
        gq.run(MODEL, recipe(check__text=[str(text)]), out=tmp_path / "out", progress=lambda *_: text.unlink(True))
    stages = Stages()
    report = gq.run(MODEL, recipe(check__text=["glmquant:held-out-zh.txt"]), out=tmp_path / "out", progress=stages)
    assert stages.seen == {"baseline, block by block", "comparing, tokens"}
    assert report.language is not None
    assert report.language.texts == ("held-out-zh.txt",)


def stopped_before_the_report(directory: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr("glmquant.pipeline.run.measured", stop)
        with pytest.raises(KeyboardInterrupt):
            gq.run(MODEL, recipe(**changes), out=directory)


@pytest.mark.parametrize(
    ("before", "after", "stages"),
    [
        (
            {},
            {"check__limits__mean_kl": 5.0, "description": "Another one.", "export__accuracy_level": 0},
            {"exporting"},
        ),
        ({"export__kv_cache": "int8"}, {"export__kv_cache": "int4"}, {"exporting"}),
        ({"export__kv_cache": "int8"}, {"export__kv_cache": "float"}, {"exporting"}),
        ({}, {"fit__equalize": False}, {"quantizing", "exporting"}),
    ],
)
def test_what_a_changed_key_has_no_part_in_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any], after: dict[str, Any], stages: set[str]
) -> None:
    """An interrupted run, and the recipe edited in between: the outcome is that of the new recipe alone."""
    stopped_before_the_report(tmp_path / "out", monkeypatch, **before)
    seen = Stages()
    gq.run(MODEL, recipe(**after), out=tmp_path / "out", progress=seen)
    assert seen.seen == {*stages, "baseline, block by block", "comparing, tokens"}
    gq.run(MODEL, recipe(**after), out=tmp_path / "whole")
    assert lasting(tmp_path / "out") == lasting(tmp_path / "whole")


@pytest.mark.parametrize(
    "changes",
    [
        {"export__profile": "standard", "rules": [{"match": "layers.*", "spec": {"bits": 2, "group_size": 32}}]},
        {"export__dynamic_int8": True, "rules": [{"match": "layers.*", "spec": {"bits": 8, "group_size": 32}}]},
        {
            "export__profile": "standard",
            "allocate": {"average_bits": 6},
            "rules": [
                {
                    "match": "layers.*",
                    "spec": {"bits": 8, "group_size": 32},
                    "alternatives": [{"bits": 2, "group_size": 32}],
                }
            ],
        },
    ],
)
def test_an_export_that_cannot_be_stops_the_run_before_any_weight(tmp_path: Path, changes: dict[str, Any]) -> None:
    stages = Stages()
    with pytest.raises(gq.ExportError):
        gq.run(MODEL, recipe(**changes), out=tmp_path / "out", progress=stages)
    assert not stages.seen
    assert not list(tmp_path.glob("out*"))


def test_a_finished_run_given_again_gives_its_report(tmp_path: Path) -> None:
    first = gq.run(MODEL, recipe(), out=tmp_path / "out")
    before, stages = contents(tmp_path / "out"), Stages()
    assert gq.run(MODEL, recipe(), out=tmp_path / "out", progress=stages) == first
    assert not stages.seen
    assert contents(tmp_path / "out") == before


@follows("choose another directory, or give `force` to start anew", "run:_finished")
def test_a_finished_run_is_not_taken_for_another(tmp_path: Path) -> None:
    changes = {"fit__equalize": False}
    gq.run(MODEL, recipe(), out=tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(gq.OutputError, match="other inputs") as error:
        gq.run(MODEL, recipe(**changes), out=tmp_path / "out")
    assert "`force`" in str(error.value.hint)
    assert contents(tmp_path / "out") == before
    report = gq.run(MODEL, recipe(**changes), out=tmp_path / "out", force=True)
    assert contents(tmp_path / "out") != before
    assert gq.read_report(tmp_path / "out" / "report") == report
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@follows("`check` {} with these judges the same bundle; `force` makes all anew")
def test_a_finished_run_is_judged_by_other_data_with_check(tmp_path: Path) -> None:
    gq.run(MODEL, recipe(), out=tmp_path / "out")
    before, other = contents(tmp_path / "out"), recipe(check__num_tokens=128)
    with pytest.raises(gq.OutputError, match="other texts, tasks or limits"):
        gq.run(MODEL, other, out=tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert gq.check(tmp_path / "out" / "onnx", baseline=MODEL, recipe=other).language is not None


@follows("choose another directory, or give `force` to start anew", "run:_require_whole")
def test_a_damaged_bundle_is_not_passed_again(tmp_path: Path) -> None:
    gq.run(MODEL, recipe("int8-rtn"), out=tmp_path / "out")
    os.truncate(tmp_path / "out" / "onnx" / "model.onnx.data", 1000)
    with pytest.raises(gq.OutputError, match=r"model\.onnx\.data of the finished run was changed"):
        gq.run(MODEL, recipe("int8-rtn"), out=tmp_path / "out")
    gq.run(MODEL, recipe("int8-rtn"), out=tmp_path / "out", force=True)
    assert (tmp_path / "out" / "onnx" / "model.onnx.data").stat().st_size > 1000


def test_a_forced_run_that_fails_leaves_the_finished_one(tmp_path: Path) -> None:
    gq.run(MODEL, recipe(), out=tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(gq.GlmQuantError):
        gq.run(MODEL, recipe(**misspelled(tmp_path)), out=tmp_path / "out", force=True)
    assert contents(tmp_path / "out") == before


def test_an_edited_text_makes_another_run(tmp_path: Path) -> None:
    text = tmp_path / "held_out.txt"
    shutil.copy(Path(assets.resolve("glmquant:held-out-en.txt")), text)
    gq.run(MODEL, recipe(check__text=[str(text)]), out=tmp_path / "out")
    text.write_text("Another first line.\n" + text.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(gq.OutputError, match="other texts"):
        gq.run(MODEL, recipe(check__text=[str(text)]), out=tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "inputs": "a"}', "{" * 5000])
def test_a_damaged_record_is_nobodys_run(tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(text)
    with pytest.raises(gq.OutputError, match="not empty"):
        gq.run(MODEL, recipe(), out=out)
    assert (out / "run.json").read_text() == text


def test_only_the_record_and_the_page_name_time_and_place(tmp_path: Path) -> None:
    for out in (tmp_path / "one", tmp_path / "other"):
        gq.run(MODEL, recipe(), out=out)
    one, other = (contents(tmp_path / name) for name in ("one", "other"))
    differing = {name for name in one | other if one.get(name) != other.get(name)}
    assert differing <= {"run.json", "report/report.html"}
    made = json.loads(one["run.json"])["made"]
    assert made["seconds"].keys() == {"quantize", "export", "check"}
    assert made["peak_bytes"] > 10**7
    assert made["machine"]["processor"] in one["report/report.html"].decode()
    assert "onnx/README.md" in one


def test_force_replaces_nothing_but_a_run(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    for out in (model, tmp_path, tmp_path / "notes"):
        with pytest.raises(gq.OutputError):
            gq.run(model, recipe("int8-rtn"), out=out, force=True)
    assert contents(tmp_path) == before
    gq.run(model, recipe("int8-rtn"), out=tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(gq.OutputError, match=r"mine\.txt is no part of a finished run"):
        gq.run(model, recipe("int8-rtn"), out=tmp_path / "out", force=True)


def test_a_run_whose_model_has_other_stop_ids_now_is_another(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    gq.run(model, recipe("int8-rtn"), out=tmp_path / "out")
    (model / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    with pytest.raises(gq.OutputError, match="other inputs"):
        gq.run(model, recipe("int8-rtn"), out=tmp_path / "out")


@pytest.mark.parametrize("lost", ["onnx", "report"])
def test_a_finished_run_that_has_lost_something_says_so(tmp_path: Path, lost: str) -> None:
    gq.run(MODEL, recipe("int8-rtn"), out=tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / lost)
    with pytest.raises(gq.OutputError, match=f"lacks {lost}/"):
        gq.run(MODEL, recipe("int8-rtn"), out=tmp_path / "out")
