"""`--adapter` on every command, and `adapter=` in Python: what comes out is what comes of the merged checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import glmquant as gq
from glmquant import assets
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.runtime.model import OnnxModel
from glmquant.store.adapter import open_adapter
from glmquant.store.checkpoint import open_checkpoint, with_adapter
from tests.glm.test_families import Release
from tests.support.adapters import halves, packaged_adapter, write_adapter
from tests.support.paths import contents
from tests.test_cli import SMALL, glmquant
from tests.test_families import hugging_face

DEMO = assets.DEMO_MODEL
FITTED = {
    "rules": [
        {"match": "layers.0.self_attn.*", "spec": {"bits": 8, "group_size": 32}, "method": {"kind": "gptq"}},
        {"match": "*", "spec": {"bits": 8, "group_size": 32}},
    ],
    "calibration.num_samples": 2,
    "calibration.seq_len": 32,
}
CHECK = {"check.text": ["glmquant:held-out-en.txt"], "check.num_tokens": 256, "check.seq_len": 64, "check.tasks": []}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return packaged_adapter(tmp_path / "my-lora")


@pytest.fixture
def merged(adapter: Path) -> gq.Checkpoint:
    return with_adapter(open_checkpoint(DEMO), open_adapter(adapter))


def test_every_step_sees_the_merged_model(
    adapter: Path, merged: gq.Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = gq.load_recipe(None, CHECK | FITTED)
    calibration = gq.calibrate(DEMO, recipe, adapter=adapter, out=tmp_path / "calibration")
    quantized = gq.quantize(DEMO, recipe, calibration, adapter=adapter, out=tmp_path / "quantized")
    assert contents(quantized.path) == contents(gq.quantize(merged, recipe, calibration, out=tmp_path / "same").path)
    bundle = gq.export(quantized, recipe, out=tmp_path / "onnx")
    report = gq.check(bundle, baseline=DEMO, adapter=adapter, recipe=recipe)
    assert gq.run(DEMO, recipe, adapter=adapter, out=tmp_path / "run") == report
    assert contents(tmp_path / "run" / "quantized") == contents(quantized.path)
    of_run = contents(tmp_path / "run" / "onnx")
    assert of_run.pop("README.md")
    assert of_run.keys() == contents(bundle.path).keys()
    assert {n for n, data in contents(bundle.path).items() if data != of_run[n]} == {"glmquant.json"}, "names the card"
    assert report.setting.baseline.name.endswith("with adapter my-lora")
    assert "not made from these files" not in caplog.text
    without = gq.check(bundle, baseline=DEMO, recipe=recipe)
    assert "with adapter my-lora" in caplog.text
    assert without.language is not None
    assert report.language is not None
    assert without.language.kl.mean.estimate > 3 * report.language.kl.mean.estimate


def test_the_manifest_names_the_adapter_and_nothing_else_changes(adapter: Path, tmp_path: Path) -> None:
    recipe = gq.load_recipe("int8-rtn")
    quantized = gq.quantize(DEMO, recipe, adapter=adapter, out=tmp_path / "with")
    assert quantized.manifest is not None
    assert quantized.manifest.adapter is not None
    assert quantized.manifest.adapter.name == "my-lora"
    assert quantized.manifest.adapter.sha256 == open_adapter(adapter).sha256
    plain = gq.quantize(DEMO, recipe, out=tmp_path / "without")
    assert plain.manifest is not None
    assert plain.manifest.adapter is None
    assert "adapter" not in json.loads((plain.path / "glmquant.json").read_text())
    assert plain.manifest.source_fingerprint == open_checkpoint(DEMO).fingerprint
    assert quantized.manifest.source_fingerprint != plain.manifest.source_fingerprint
    bundle = gq.export(DEMO, recipe, adapter=adapter, out=tmp_path / "onnx")
    assert json.loads((bundle.path / "glmquant.json").read_text())["adapter"]["name"] == "my-lora"


def test_a_float_bundle_answers_as_the_merged_model(adapter: Path, merged: gq.Checkpoint, tmp_path: Path) -> None:
    bundle = gq.export(DEMO, adapter=adapter, out=tmp_path / "onnx")
    tokens = np.arange(3, 19)[None]
    ours = OnnxModel.open(bundle.path).forward(tokens, np.ones_like(tokens))[0]
    (theirs,) = BaselineSource(merged).logits([Query(tokens[0], 16)])
    (plain,) = BaselineSource(open_checkpoint(DEMO)).logits([Query(tokens[0], 16)])
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert np.abs(plain - theirs).max() > 0.1


def test_an_unfinished_run_with_another_adapter_is_not_taken_up(adapter: Path, tmp_path: Path) -> None:
    recipe = gq.load_recipe("int8-rtn")

    def stop(stage: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gq.quantize(DEMO, recipe, out=tmp_path / "out", progress=stop)
    quantized = gq.quantize(DEMO, recipe, adapter=adapter, out=tmp_path / "out")
    assert contents(quantized.path) == contents(gq.quantize(DEMO, recipe, adapter=adapter, out=tmp_path / "new").path)


def test_a_kept_baseline_is_that_of_its_adapter(adapter: Path, tmp_path: Path) -> None:
    recipe, cache = gq.load_recipe(None, CHECK), tmp_path / "cache"
    bundle = gq.export(DEMO, adapter=adapter, out=tmp_path / "onnx")
    gq.check(bundle, baseline=DEMO, recipe=recipe, cache=cache)
    with_it = gq.check(bundle, baseline=DEMO, adapter=adapter, recipe=recipe, cache=cache)
    assert len(list(cache.iterdir())) == 2
    assert with_it.language is not None
    assert with_it.language.kl.mean.estimate == pytest.approx(0, abs=1e-5)


def test_a_classifier_is_trained_on_the_merged_model(adapter: Path, merged: gq.Checkpoint, tmp_path: Path) -> None:
    lines = (assets.DIRECTORY / "reviews.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:40]
    (tmp_path / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    recipe = gq.load_recipe(None, {"train.epochs": 1})
    gq.train_classifier(DEMO, tmp_path / "train.jsonl", recipe, adapter=adapter, out=tmp_path / "classifier")
    trained = open_checkpoint(tmp_path / "classifier")
    for name, linear in merged.block(0).linears().items():
        assert torch.equal(linear.dense(), trained.block(0).linears()[name].dense())


def test_inspect_says_what_the_adapter_holds(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("inspect", DEMO, "--adapter", adapter) == 0
    layers = open_checkpoint(DEMO).config.num_hidden_layers
    line = f"LoRA adapter my-lora: rank 4, {layers} linear layers (query_key_value) in {layers} of {layers} blocks"
    assert line in capsys.readouterr().out
    assert glmquant("inspect", DEMO, "--adapter", adapter, "--json") == 0
    told = json.loads(capsys.readouterr().out)["adapter"]
    assert (told["ranks"], told["targets"], told["num_layers"]) == ([4], ["query_key_value"], layers)
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('["query_key_value"]', '["query_key_value", "dense"]'))
    assert glmquant("inspect", DEMO, "--adapter", adapter) == 0
    assert "note: the adapter's target_modules names 'dense'" in capsys.readouterr().out


def test_every_command_takes_an_adapter(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, lora = tmp_path / "out", ["--adapter", adapter]
    recipe = tmp_path / "fitted.yaml"
    recipe.write_text(json.dumps({"version": 1, "rules": FITTED["rules"]}), encoding="utf-8")
    check = [part for name, value in CHECK.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    calibration = ["--calibration", out / "calib"]
    assert glmquant("calibrate", DEMO, *lora, "--out", out / "calib", "-r", recipe, *SMALL) == 0
    assert glmquant("quantize", DEMO, *lora, *calibration, "--out", out / "q", "-r", recipe, *SMALL) == 0
    assert glmquant("export", DEMO, *lora, "--out", out / "onnx", "-r", "int8-rtn") == 0
    assert glmquant("check", out / "onnx", "--baseline", DEMO, *lora, *check) != 2
    assert glmquant("run", DEMO, "--recipe", recipe, *lora, "--out", out / "run", *SMALL, *check) != 2
    names = sorted(path.name for path in (out / "q").glob("*.safetensors"))
    assert all((out / "run" / "quantized" / n).read_bytes() == (out / "q" / n).read_bytes() for n in names)
    manifest = json.loads((out / "run" / "onnx" / "glmquant.json").read_text())
    assert manifest["adapter"]["name"] == "my-lora"
    capsys.readouterr()


@pytest.mark.parametrize("command", ["inspect", "calibrate", "quantize", "export"])
def test_a_wrong_adapter_ends_with_2_and_leaves_nothing(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write_adapter(tmp_path / "a", halves("model.layers.0.self_attn.q_proj", 9, 9))
    out = [] if command == "inspect" else ["--out", tmp_path / "out"]
    recipe = ["-r", "int8-rtn"] if command == "quantize" else []
    assert glmquant(command, DEMO, "--adapter", adapter, *out, *recipe) == 2
    shown = capsys.readouterr()
    assert "q_proj.weight' is for a tensor of shape [9, 9]" in shown.err
    assert shown.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_the_hint_for_a_quantized_model_works(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gq.quantize(DEMO, gq.load_recipe("int8-rtn"), out=tmp_path / "quantized")
    assert glmquant("export", tmp_path / "quantized", "--adapter", adapter, "--out", tmp_path / "onnx") == 2
    assert "quantize with the `--adapter`" in capsys.readouterr().err
    assert glmquant("quantize", DEMO, "--adapter", adapter, "-r", "int8-rtn", "--out", tmp_path / "q") == 0
    assert glmquant("export", tmp_path / "q", "--out", tmp_path / "onnx") == 0


def test_the_hint_for_an_adapter_given_as_the_model(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ggml-org/llama.cpp#6058, with the configuration of its base beside it or not."""
    for _ in range(2):
        assert glmquant("inspect", adapter) == 2
        assert "give the base model" in (told := capsys.readouterr().err)
        assert "this directory as `--adapter`" in told
        assert glmquant("inspect", DEMO, "--adapter", adapter) == 0
        assert "LoRA adapter my-lora" in capsys.readouterr().out
        shutil.copy(DEMO / "config.json", adapter)


def test_a_missing_directory_is_named_as_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("inspect", DEMO, "--adapter", tmp_path / "absent") == 2
    assert f"where: --adapter {tmp_path / 'absent'}" in capsys.readouterr().err
    assert glmquant("inspect", DEMO, "--adapter", tmp_path, "--compare", DEMO) == 2
    assert "--compare reads what was quantized" in capsys.readouterr().err


def test_a_tied_model_with_an_adapters_head_is_exported_untied(tmp_path: Path) -> None:
    base = tmp_path / "glm-edge"
    base.mkdir()
    hugging_face(Release("THUDM/glm-edge-1.5b-chat", {"model_type": "glm", "tie_word_embeddings": True}), base)
    vocabulary = open_checkpoint(base).config.vocab_size
    adapter = write_adapter(tmp_path / "a", halves("lm_head", vocabulary, 64))
    bundle = gq.export(base, adapter=adapter, out=tmp_path / "onnx")
    tokens = np.arange(3, 19)[None]
    ours = OnnxModel.open(bundle.path).forward(tokens, np.ones_like(tokens))[0]
    merged = with_adapter(open_checkpoint(base), open_adapter(adapter))
    (theirs,) = BaselineSource(merged).logits([Query(tokens[0], 16)])
    np.testing.assert_allclose(ours, theirs, atol=1e-2 * np.abs(theirs).max())
    (plain,) = BaselineSource(open_checkpoint(base)).logits([Query(tokens[0], 16)])
    assert np.abs(plain - theirs).max() > 0.1


def test_an_adapter_is_no_part_of_a_copy_of_the_model(adapter: Path, tmp_path: Path) -> None:
    """Nothing is written into either directory."""
    shutil.copytree(DEMO, tmp_path / "model")
    before = contents(tmp_path / "model") | contents(adapter)
    gq.quantize(tmp_path / "model", gq.load_recipe("int8-rtn"), adapter=adapter, out=tmp_path / "out")
    assert contents(tmp_path / "model") | contents(adapter) == before
