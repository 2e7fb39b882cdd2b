"""A check against what the float side said, where the checkpoint is not at hand."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import glmquant as gq
from glmquant import assets
from glmquant.evaluation.stored_baseline import open_stored_baseline
from glmquant.store.sealed_tensors import write_sealed
from tests.support.classifiers import golden_classifier
from tests.support.paths import GOLDEN

MODEL = GOLDEN["chatglm2-tiny"]
FEW = {"check.num_tokens": 256, "check.seq_len": 64, "check.limits.perplexity_ratio": 2}
TEXT = "glmquant:held-out-en.txt"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> gq.OnnxBundle:
    return gq.export(MODEL, "int8-rtn", out=tmp_path_factory.mktemp("bundle") / "onnx")


@pytest.fixture(scope="module")
def stored(bundle: gq.OnnxBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "float.safetensors"
    checked(bundle, MODEL, save_baseline=path)
    return path


def checked(bundle: gq.OnnxBundle, baseline: Path, text: str = TEXT, **more: Any) -> gq.AccuracyReport:
    return gq.check(bundle, baseline=baseline, recipe=gq.load_recipe(None, FEW), text=text, **more)


def test_the_report_is_the_same(bundle: gq.OnnxBundle, stored: Path) -> None:
    report = checked(bundle, stored)
    assert report == checked(bundle, MODEL)
    assert report.verdict == "pass"


def test_it_is_saved_from_a_cache_too(bundle: gq.OnnxBundle, stored: Path, tmp_path: Path) -> None:
    checked(bundle, MODEL, cache=tmp_path / "cache")
    checked(bundle, MODEL, cache=tmp_path / "cache", save_baseline=tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == stored.read_bytes()


def test_a_tied_head_is_stored_with_it(tmp_path: Path) -> None:
    bundle = gq.export(assets.DEMO_MODEL, "int8-rtn", out=tmp_path / "onnx")
    checked(bundle, assets.DEMO_MODEL, save_baseline=tmp_path / "float.safetensors")
    assert checked(bundle, tmp_path / "float.safetensors") == checked(bundle, assets.DEMO_MODEL)


def test_other_texts_are_refused(bundle: gq.OnnxBundle, stored: Path) -> None:
    with pytest.raises(gq.CheckError, match="answers other texts or tasks"):
        checked(bundle, stored, "glmquant:held-out-zh.txt")


def test_a_bundle_of_another_model_is_refused(stored: Path, tmp_path: Path) -> None:
    other = gq.export(GOLDEN["chatglm3-tiny"], "int8-rtn", out=tmp_path / "onnx")
    with pytest.raises(gq.CheckError, match="different tokenizers"):
        checked(other, stored)


def test_a_classifiers_answers_are_stored_too(tmp_path: Path) -> None:
    model = golden_classifier(tmp_path / "model", "chatglm2-tiny", labels := ("no", "yes", "perhaps"))
    bundle = gq.export(model, "classifier-int8", out=tmp_path / "onnx")
    lines = [json.dumps({"text": f"text {number}", "label": labels[number % len(labels)]}) for number in range(12)]
    (tmp_path / "task.jsonl").write_text("\n".join(lines))
    given: dict[str, Any] = {"tasks": [tmp_path / "task.jsonl"]}
    whole = gq.check(bundle, baseline=model, save_baseline=tmp_path / "float.safetensors", **given)
    shutil.rmtree(model)
    assert gq.check(bundle, baseline=tmp_path / "float.safetensors", **given) == whole


def changed(path: Path, to: Path, edit: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> Path:
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["glmquant.baseline"])
    tensors = load_file(path)
    edit(tensors, about)
    write_sealed(to, tensors, {"glmquant.baseline": json.dumps(about)})
    return to


EDITS: dict[str, tuple[Callable[[dict[str, torch.Tensor], dict[str, Any]], None], str]] = {
    "another format": (lambda _, about: about.update(format="1"), "format '1'"),
    "a missing field": (lambda _, about: about.pop("vocabulary"), "description is damaged"),
    "another field": (lambda _, about: about.update(extra=1), "description is damaged"),
    "a configuration of nothing": (lambda _, about: about.update(config={}), "damaged one"),
    "rows of another width": (lambda tensors, _: tensors.update(rows=torch.zeros(8, 3)), "do not fit"),
    "rows in half precision": (lambda tensors, _: tensors.update(rows=tensors["rows"].half()), "do not fit"),
    "no head": (lambda tensors, _: tensors.pop("head"), "do not fit"),
    "another tensor": (lambda tensors, _: tensors.update(more=torch.zeros(1)), "do not fit"),
    "rows cut off": (lambda tensors, _: tensors.update(rows=tensors["rows"][:-1].clone()), "baseline is damaged: rows"),
}


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=EDITS)
def test_a_damaged_file_is_one_clear_error(
    bundle: gq.OnnxBundle, stored: Path, tmp_path: Path, edit: Any, message: str
) -> None:
    with pytest.raises(gq.CheckError, match=message):
        checked(bundle, changed(stored, tmp_path / "float.safetensors", edit))


def test_a_bit_that_flipped_anywhere_is_found_before_the_file_is_used(stored: Path, tmp_path: Path) -> None:
    whole, chance = stored.read_bytes(), random.Random(21)
    for at in [*range(0, 9), *(chance.randrange(len(whole)) for _ in range(60))]:
        path = tmp_path / "float.safetensors"
        path.write_bytes(flipped(whole, at, 1 << chance.randrange(8)))
        with pytest.raises(gq.CheckError):
            open_stored_baseline(path)


def flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def test_a_bit_that_flipped_in_a_cache_is_found_before_it_is_used(bundle: gq.OnnxBundle, tmp_path: Path) -> None:
    report = checked(bundle, MODEL, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for at in (0, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(flipped(whole, at, 4))
        with pytest.raises(gq.CheckError, match=r"a cached baseline is damaged: [\s\S]*remove the file"):
            checked(bundle, MODEL, cache=tmp_path)
    path.unlink()
    assert checked(bundle, MODEL, cache=tmp_path) == report


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"{}", b"version https://git-lfs.github.com/spec/v1\n"])
def test_what_is_no_baseline_is_refused(bundle: gq.OnnxBundle, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(gq.CheckError):
        checked(bundle, tmp_path / "file")


def test_weights_are_no_stored_baseline(bundle: gq.OnnxBundle, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(gq.CheckError, match="no stored baseline"):
        checked(bundle, tmp_path / "model.safetensors")


def test_a_stored_baseline_is_not_stored_again(bundle: gq.OnnxBundle, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(gq.CheckError, match="not stored again"):
        checked(bundle, stored, save_baseline=tmp_path / "again")


def test_no_other_file_is_overwritten(bundle: gq.OnnxBundle, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("keep me")
    for path in (mine, tmp_path, tmp_path / "nowhere" / "float.safetensors"):
        with pytest.raises(gq.OutputError):
            checked(bundle, MODEL, save_baseline=path)
    assert mine.read_text() == "keep me"


def test_a_file_of_a_checkpoint_leads_to_its_directory(bundle: gq.OnnxBundle) -> None:
    with pytest.raises(gq.CheckError) as caught:
        checked(bundle, MODEL / "config.json")
    assert caught.value.hint == f"give {MODEL}"
