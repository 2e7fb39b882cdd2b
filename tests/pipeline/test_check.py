"""A check of a bundle: what it judges by, and which baselines it takes."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

import glmquant as gq
from glmquant import assets
from glmquant.evaluation.bundle import with_files
from glmquant.evaluation.comparable import require_same_model
from glmquant.evaluation.gate import Verdict
from glmquant.reports.ending import in_short
from glmquant.reports.html import to_html
from glmquant.reports.markdown import to_markdown
from glmquant.store.checkpoint import open_checkpoint
from tests.glm.test_families import HUGGING_FACE, Release
from tests.support.classifiers import golden_classifier
from tests.support.paths import GOLDEN
from tests.test_families import hugging_face

MODEL = GOLDEN["chatglm2-tiny"]
OTHER = GOLDEN["chatglm3-tiny"]
FEW = {"check.num_tokens": 256, "check.seq_len": 64}
TEXT = "glmquant:held-out-en.txt"


def rounded(out: Path, **limits: float) -> gq.OnnxBundle:
    given = {f"check.limits.{name}": value for name, value in limits.items()}
    rules = [{"match": "layers.*", "spec": {"bits": 4, "group_size": 32}}]
    return gq.export(MODEL, gq.load_recipe(None, {"rules": rules, **given}), out=out)


def checked(bundle: gq.OnnxBundle, *, baseline: Path = MODEL, **changes: Any) -> gq.AccuracyReport:
    recipe = gq.load_recipe(None, FEW | {key.replace("__", "."): value for key, value in changes.items()})
    return gq.check(bundle, baseline=baseline, recipe=recipe, text=TEXT)


def test_without_limits_nothing_passes(tmp_path: Path) -> None:
    """MetaMask/metamask-extension#45450: a gate that measured nothing was green."""
    assert checked(rounded(tmp_path / "onnx")).verdict is Verdict.NOT_JUDGED


@pytest.mark.parametrize(("most", "verdict"), [(1e6, Verdict.PASS), (1e-9, Verdict.FAIL)])
def test_limits_travel_in_the_bundle(tmp_path: Path, most: float, verdict: Verdict) -> None:
    report = checked(rounded(tmp_path / "onnx", perplexity_ratio=1e6, mean_kl=most))
    assert report.verdict is verdict
    assert [outcome.metric for outcome in report.limits] == ["perplexity_ratio", "mean_kl"]


def test_limits_travel_through_a_quantized_checkpoint(tmp_path: Path) -> None:
    recipe = gq.load_recipe("int8-rtn", {"check.limits.perplexity_ratio": 1.5})
    quantized = gq.quantize(MODEL, recipe, out=tmp_path / "quantized")
    report = checked(gq.export(quantized, out=tmp_path / "onnx"))
    assert "perplexity_ratio" in {outcome.metric for outcome in report.limits}
    assert report.verdict is Verdict.PASS


def test_limits_that_are_given_hold_in_place_of_the_bundles(tmp_path: Path) -> None:
    report = checked(rounded(tmp_path / "onnx", perplexity_ratio=1e6), check__limits__mean_kl=1e-9)
    assert [outcome.metric for outcome in report.limits] == ["mean_kl"]
    assert report.verdict is Verdict.FAIL


def test_rules_that_a_quantized_checkpoint_does_not_follow_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quantized = gq.quantize(MODEL, "int8-rtn", out=tmp_path / "quantized")
    gq.export(quantized, "int8-rtn", out=tmp_path / "same")
    assert "rules are not applied" not in caplog.text
    rules = [{"match": "layers.*", "spec": {"bits": 4, "group_size": 32}}]
    gq.export(quantized, gq.load_recipe(None, {"rules": rules}), out=tmp_path / "other")
    assert caplog.text.count("the recipe's rules are not applied; layers.0.self_attn.qkv_proj is 8 bits in") == 1
    assert "and they say 4 bits in groups of 32" in caplog.text


def edited(directory: Path, source: Path, **fields: Any) -> Path:
    shutil.copytree(source, directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return directory


def test_a_baseline_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """ml-explore/mlx-lm#1146: token ids that do not line up, compared all the same."""
    with pytest.raises(gq.CheckError, match="different tokenizers"):
        checked(rounded(tmp_path / "onnx"), baseline=OTHER)


def test_a_baseline_with_another_vocabulary_or_shape_is_refused(tmp_path: Path) -> None:
    """ggml-org/llama.cpp#5076: logits of any model that has the same vocabulary are taken."""
    with pytest.raises(gq.CheckError, match=r"different shapes: .*vocab_size 2112, baseline"):
        checked(rounded(tmp_path / "onnx"), baseline=assets.DEMO_MODEL)


def test_a_baseline_of_other_weights_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A copy with another name in its configuration: another fingerprint."""
    other = edited(tmp_path / "copy", MODEL, note="a copy")
    with caplog.at_level(logging.WARNING, "glmquant"):
        report = checked(rounded(tmp_path / "onnx"), baseline=other)
    (note,) = report.notes
    assert note.startswith("the bundle was not made from these files: it names chatglm2-tiny, and the baseline is copy")
    assert note in caplog.text
    for page in (to_markdown(report), to_html(report), in_short(report)):
        assert "The bundle was not made from these files" in page


def test_the_report_says_how_much_was_read_and_what_was_calibrated_on(tmp_path: Path) -> None:
    recipe = gq.load_recipe(
        "int4-g128-gptq-fast", {"calibration.num_samples": 8, "calibration.seq_len": 32, "calibration.data": [TEXT]}
    )
    samples = gq.calibrate(MODEL, recipe, out=tmp_path / "samples")
    quantized = gq.quantize(MODEL, recipe, samples, out=tmp_path / "quantized")
    bundle = gq.export(quantized, recipe, out=tmp_path / "onnx")
    given = gq.load_recipe(None, FEW)
    report = gq.check(
        bundle, baseline=MODEL, recipe=given, text=[TEXT, "glmquant:held-out-zh.txt"], out=tmp_path / "report"
    )
    english, chinese = report.coverage
    assert (english.name, english.num_tokens, english.calibrated_on) == ("held-out-en.txt", 256, True)
    assert (chinese.name, chinese.num_tokens, chinese.calibrated_on) == ("held-out-zh.txt", 256, False)
    for page in ("report.md", "report.html"):
        text = (tmp_path / "report" / page).read_text(encoding="utf-8")
        assert f"256 of {english.of_tokens:,} tokens of held-out-en.txt, 256 of {chinese.of_tokens:,} tokens" in text
        assert "The model was calibrated on held-out-en.txt" in text


def test_an_earlier_report_of_other_windows_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    bundle = rounded(tmp_path / "onnx")
    earlier, stages = checked(bundle), set()
    with pytest.raises(gq.CheckError, match="4 windows of held-out-en"):
        gq.check(
            bundle,
            baseline=MODEL,
            recipe=gq.load_recipe(None, FEW | {"check.num_tokens": 128}),
            text=TEXT,
            against=earlier,
            progress=lambda stage, *_: stages.add(stage),
        )
    assert not stages


def test_an_earlier_report_of_another_text_of_the_same_name_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    text, stages = tmp_path / "held_out.txt", set()
    shutil.copy(assets.resolve(TEXT), text)
    bundle, recipe = rounded(tmp_path / "onnx"), gq.load_recipe(None, FEW)
    earlier = gq.check(bundle, baseline=MODEL, recipe=recipe, text=text)
    text.write_text("Another first line.\n" + text.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(gq.CheckError, match=r"held_out\.txt is another text now"):
        gq.check(
            bundle,
            baseline=MODEL,
            recipe=recipe,
            text=text,
            against=earlier,
            progress=lambda stage, *_: stages.add(stage),
        )
    assert not stages


@pytest.mark.parametrize("parameter", ["cache", "out"])
def test_a_file_where_a_directory_is_wanted_is_refused_before_anything_is_measured(
    tmp_path: Path, parameter: str
) -> None:
    (tmp_path / "file").write_text("mine")
    stages: set[str] = set()
    with pytest.raises(gq.OutputError, match=r"file"):
        gq.check(
            rounded(tmp_path / "onnx"),
            baseline=MODEL,
            recipe=gq.load_recipe(None, FEW),
            text=TEXT,
            progress=lambda stage, *_: stages.add(stage),
            **{parameter: tmp_path / "file" / "below"},
        )
    assert not stages


def test_a_classifier_checked_on_what_it_was_trained_on_says_so(tmp_path: Path) -> None:
    """And its float bundle was made from the very checkpoint that was trained."""
    known = labeled(tmp_path / "train.jsonl", ["no", "yes"] * 6)
    other = labeled(tmp_path / "test.jsonl", ["yes", "no"] * 6)
    recipe = gq.load_recipe(None, {"train.epochs": 1})
    gq.train_classifier(MODEL, known, recipe, out=tmp_path / "model")
    bundle = gq.export(tmp_path / "model", out=tmp_path / "onnx")
    quantized = gq.quantize(tmp_path / "model", "classifier-int8", out=tmp_path / "quantized")
    assert quantized.manifest is not None
    assert len(quantized.manifest.training_texts) == 1
    report = gq.check(bundle, baseline=tmp_path / "model", tasks=[known])
    assert report.notes == (
        "the classifier was trained on train.jsonl: what it gets right there says little of other texts",
    )
    assert gq.check(bundle, baseline=tmp_path / "model", tasks=[other]).notes == ()


def labeled(path: Path, labels: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"text": f"text {n}", "label": label}) for n, label in enumerate(labels)))
    return path


@pytest.mark.parametrize("limit", [{"accuracy_drop": 1.0}, {"accuracy": 0.0}])
@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(["no"] * 30, id="DonaldRR/SimpleNet#5, facebookresearch/Mask2Former#18: one class"),
        pytest.param(["no", "yes", "perhaps"] * 10, id="open-multi-agent/open-multi-agent#573: no evidence, green"),
    ],
)
def test_a_task_that_cannot_measure_quantization_never_passes(
    tmp_path: Path, labels: list[str], limit: dict[str, float]
) -> None:
    """The golden classifier's head is random: its baseline guesses."""
    model = golden_classifier(tmp_path / "model", "chatglm2-tiny", ("no", "yes", "perhaps"))
    bundle = gq.export(model, "classifier-int8", out=tmp_path / "onnx")
    recipe = gq.load_recipe(None, {f"check.limits.{name}": value for name, value in limit.items()})
    report = gq.check(bundle, baseline=model, recipe=recipe, tasks=[labeled(tmp_path / "task.jsonl", labels)])
    assert report.verdict is Verdict.NOT_JUDGED


def test_tasks_that_are_given_are_told_to_replace_the_recipes(caplog: pytest.LogCaptureFixture) -> None:
    options = gq.load_recipe(None, {"check.tasks": [{"data": "mine.jsonl", "text_field": "review"}]}).check
    with caplog.at_level(logging.INFO, "glmquant"):
        assert with_files(options, (), None).tasks == options.tasks
        assert not caplog.text
        assert with_files(options, (), ["other.jsonl"]).tasks[0].text_field is None
    assert "take the place of the recipe's 1, with their fields" in caplog.text


def test_a_quantized_baseline_is_refused(tmp_path: Path) -> None:
    quantized = gq.quantize(MODEL, "int8-rtn", out=tmp_path / "quantized")
    with pytest.raises(gq.CheckError, match="quantized itself"):
        gq.check(gq.export(quantized, out=tmp_path / "onnx"), baseline=quantized, text=TEXT)


def test_a_text_given_twice_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "copy.txt"
    shutil.copy(assets.resolve(TEXT), copy)
    with pytest.raises(gq.CheckError, match=r"copy\.txt is the same text as held-out-en\.txt"):
        gq.check(rounded(tmp_path / "onnx"), baseline=MODEL, recipe=gq.load_recipe(None, FEW), text=[TEXT, str(copy)])


@pytest.mark.parametrize("release", HUGGING_FACE, ids=lambda release: release.name)
def test_a_bundle_and_its_own_checkpoint_are_one_model(release: Release, tmp_path: Path) -> None:
    """GLM-4-0414's bundle says ``model_type: glm``."""
    model = tmp_path / "model"
    model.mkdir()
    hugging_face(release, model)
    bundle = gq.export(model, "int8-rtn", out=tmp_path / "onnx")
    assert require_same_model(bundle.path, open_checkpoint(model)).vocab_size > 0
