"""From end to end: against the publisher's numbers, and what is shipped against what was quantized."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import glmquant as gq
from glmquant import assets
from glmquant.errors import ExportError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.recipe.load import load_recipe
from glmquant.runtime.generate import generate as generate_ids
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import open_checkpoint
from tests.support.paths import GOLDEN, contents, lasting

TEXT = {"check.text": ["glmquant:held-out-en.txt"], "check.num_tokens": 256, "check.seq_len": 64}


@pytest.fixture(params=GOLDEN.values(), ids=GOLDEN)
def golden(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_the_publishers_numbers_through_torch(golden: Path) -> None:
    expected = load_file(golden / "expected.safetensors")
    source = BaselineSource(open_checkpoint(golden))
    answers = list(source.logits([Query(row, len(row)) for row in expected["input_ids"]]))
    np.testing.assert_allclose(np.stack(answers), expected["logits"], atol=1e-4)
    mask, tokens = expected["attention_mask_padded"].astype(bool), expected["input_ids"]
    real = [Query(tokens[row][mask[row]], int(mask[row].sum())) for row in range(2)]
    for row, answer in enumerate(source.logits(real)):
        np.testing.assert_allclose(answer, expected["logits_padded"][row][mask[row]], atol=1e-4)


def test_the_publishers_numbers_through_onnx(golden: Path, tmp_path: Path) -> None:
    expected = load_file(golden / "expected.safetensors")
    model = OnnxModel.open(gq.export(golden, out=tmp_path / "onnx").path)
    tokens, mask = expected["input_ids"], expected["attention_mask_padded"]
    np.testing.assert_allclose(model.forward(tokens, np.ones_like(tokens)), expected["logits"], atol=1e-3)
    padded = model.forward(tokens, mask)
    real = mask.astype(bool)
    np.testing.assert_allclose(padded[real], expected["logits_padded"][real], atol=1e-3)
    prompt, answer = expected["greedy"][0, :24].tolist(), expected["greedy"][0, 24:].tolist()
    options = gq.GenerationOptions(max_new_tokens=16)
    assert list(generate_ids(model, prompt, options)) == answer


@pytest.mark.parametrize(("bits", "symmetric", "group"), [(4, True, 128), (8, False, 32), (4, False, -1)])
def test_the_bundle_is_the_quantized_checkpoint(
    golden: Path, tmp_path: Path, bits: int, symmetric: bool, group: int
) -> None:
    spec = {"bits": bits, "symmetric": symmetric, "group_size": group}
    overrides = {"rules": [{"match": "*", "spec": spec}], "export.accuracy_level": 0}
    recipe = load_recipe(None, overrides)
    quantized = gq.quantize(golden, recipe, out=tmp_path / "quantized")
    model = OnnxModel.open(gq.export(quantized, recipe, out=tmp_path / "onnx").path)
    tokens = load_file(golden / "expected.safetensors")["input_ids"]
    torch_logits = np.stack(list(BaselineSource(quantized).logits([Query(row, len(row)) for row in tokens])))
    error = np.abs(model.forward(tokens, np.ones_like(tokens)) - torch_logits).max()
    assert error <= 1e-3 * np.abs(torch_logits).max()


def test_step_by_step_and_in_one_run_give_the_same(tmp_path: Path) -> None:
    overrides = {**TEXT, "calibration.num_samples": 8, "calibration.seq_len": 64, "check.tasks": []}
    recipe = gq.load_recipe("demo", overrides)
    model = assets.DEMO_MODEL
    calibration = gq.calibrate(model, recipe, out=tmp_path / "calibration")
    quantized = gq.quantize(model, recipe, tmp_path / "calibration", out=tmp_path / "quantized")
    bundle = gq.export(quantized, recipe, out=tmp_path / "onnx")
    report = gq.check(bundle, baseline=model, recipe=recipe, out=tmp_path / "report")
    assert quantized.manifest is not None
    assert quantized.manifest.calibration == calibration.samples.sha256
    assert gq.run(model, recipe, out=tmp_path / "run") == report
    assert contents(tmp_path / "run" / "quantized") == contents(tmp_path / "quantized")
    of_run, alone = lasting(tmp_path / "run" / "onnx"), lasting(tmp_path / "onnx")
    card, named = of_run.pop("README.md"), json.loads(of_run.pop("glmquant.json"))
    assert named["files"].pop("README.md")["size"] == len(card)
    assert named | {"sha256": None} == json.loads(alone.pop("glmquant.json")) | {"sha256": None}
    assert of_run == alone
    assert lasting(tmp_path / "run" / "report") | {"README.md": card} == lasting(tmp_path / "report")


def test_float32_against_itself_loses_nothing(tmp_path: Path) -> None:
    bundle = gq.export(assets.DEMO_MODEL, out=tmp_path / "onnx")
    report = gq.check(bundle, baseline=assets.DEMO_MODEL, recipe=gq.load_recipe(None, TEXT))
    assert report.language is not None
    assert report.language.perplexity_ratio.estimate == pytest.approx(1, abs=1e-5)
    assert report.language.kl.mean.estimate == pytest.approx(0, abs=1e-5)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = gq.load_recipe("int8-rtn", {**TEXT, "check.tasks": []})

    def stop_while_exporting(stage: str, done: int, total: int) -> None:
        if stage == "exporting" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "broken", progress=stop_while_exporting)
    stages: set[str] = set()
    rename = os.rename

    def stop_as_it_ends(source: Path, target: Path) -> None:
        if target.name == "broken":
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("glmquant.store.output.os.rename", stop_as_it_ends)
        with pytest.raises(KeyboardInterrupt):
            gq.run(
                assets.DEMO_MODEL,
                recipe,
                out=tmp_path / "broken",
                progress=lambda stage, done, total: stages.add(stage),
            )
    assert "quantizing" not in stages
    stages.clear()
    report = gq.run(
        assets.DEMO_MODEL, recipe, out=tmp_path / "broken", progress=lambda stage, done, total: stages.add(stage)
    )
    assert stages == set()
    assert report == gq.read_report(tmp_path / "broken" / "report")
    gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "whole")
    assert lasting(tmp_path / "broken") == lasting(tmp_path / "whole")


def test_generate_streams_an_answer(tmp_path: Path) -> None:
    bundle = gq.export(assets.DEMO_MODEL, gq.load_recipe("int8-rtn"), out=tmp_path / "onnx")
    options = gq.GenerationOptions(max_new_tokens=12)
    pieces = list(gq.generate(bundle, "The Debian", chat=False, options=options))
    assert 1 < len(pieces) <= 13
    again = gq.generate(bundle, "The Debian", chat=False, options=options)
    assert "".join(again) == "".join(pieces)
    assert "".join(gq.generate(bundle, "你好", options=options)) != ""


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantized_cache_takes_its_ranges_from_the_calibration(tmp_path: Path, kind: str) -> None:
    few = {"calibration.num_samples": 4, "calibration.seq_len": 64, "check.tasks": [], "export.kv_cache": kind}
    recipe = gq.load_recipe("int8-rtn", {**TEXT, **few})
    report = gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "run")
    assert report.language is not None
    assert report.language.perplexity_ratio.estimate < {"int8": 1.02, "int4": 1.5}[kind]
    assert OnnxModel.open(tmp_path / "run" / "onnx").info.cache_dtype == {"int8": "int8", "int4": "uint8"}[kind]


def test_a_quantized_cache_without_a_calibration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="calibrat"):
        gq.export(assets.DEMO_MODEL, gq.load_recipe(None, {"export.kv_cache": "int8"}), out=tmp_path / "onnx")


def test_what_verbs_take_and_give_is_shown_in_a_line(tmp_path: Path) -> None:
    recipe = gq.load_recipe("int4-g128-rtn")
    quantized = gq.quantize(assets.DEMO_MODEL, recipe, out=tmp_path / "int4")
    other = gq.quantize(assets.DEMO_MODEL, gq.load_recipe("int8-rtn"), out=tmp_path / "int8")
    summary, compared = gq.inspect(assets.DEMO_MODEL, recipe), gq.compare(quantized, other)
    few = {"calibration.num_samples": 4, "calibration.seq_len": 64}
    samples = gq.calibrate(assets.DEMO_MODEL, gq.load_recipe("int8-rtn", few), out=tmp_path / "samples")
    bundle = gq.export(other, out=tmp_path / "onnx")
    for value in (recipe, quantized, summary, compared, samples, bundle, gq.open_chat(bundle)):
        assert re.fullmatch(rf"<{type(value).__name__} .{{10,250}}>", repr(value)), repr(value)
    assert "6 layers, quantized (gptq)" in repr(quantized)
    assert "bits a weight" in repr(summary)
    assert "costs most" in repr(compared)
    assert "4 samples of 64 tokens" in repr(samples)


def test_a_recipe_is_given_by_name_too(tmp_path: Path) -> None:
    by_name = gq.export(assets.DEMO_MODEL, "int8-rtn", out=tmp_path / "by-name")
    loaded = gq.export(assets.DEMO_MODEL, gq.load_recipe("int8-rtn"), out=tmp_path / "loaded")
    assert by_name.sha256 == loaded.sha256
    assert "bits a weight" in repr(gq.inspect(assets.DEMO_MODEL, "int8-rtn"))


def test_a_value_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    bundle = gq.export(assets.DEMO_MODEL, "int8-rtn", out=tmp_path / "onnx")
    with pytest.raises(gq.CheckpointError, match=r"<OnnxBundle .* is no checkpoint"):
        gq.check(bundle, baseline=bundle)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"<Recipe .* is no ONNX bundle"):
        gq.open_chat(gq.load_recipe("int8-rtn"))  # type: ignore[arg-type]


def test_a_run_whose_check_cannot_be_made_stops_before_any_work(tmp_path: Path) -> None:
    stages: list[str] = []
    recipe = gq.load_recipe("int8-rtn", {"check.text": [str(tmp_path / "nope.txt")]})
    with pytest.raises(gq.DataError, match=r"nope\.txt"):
        gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "out", progress=lambda stage, *_: stages.append(stage))
    assert stages == []


def test_a_page_of_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gq.CheckError, match="no report"):
        gq.report([], tmp_path / "page.html")
