"""The check as a pipeline uses it: verdicts as exit codes, reports, comparison with earlier ones, bad quantizations."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import glmquant as gq
from glmquant import assets
from glmquant.errors import CheckError
from glmquant.evaluation.gate import Verdict
from glmquant.glm.block import Block
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import Checkpoint
from tests.test_cli import glmquant

TEXT = {"check.text": ["glmquant:held-out-en.txt"], "check.num_tokens": 512, "check.seq_len": 64, "check.tasks": []}
SETTINGS = [item for key, value in TEXT.items() for item in ("--set", f"{key}={value}")]
BASELINE = assets.DEMO_MODEL


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "int8"
    gq.run(BASELINE, gq.load_recipe("int8-rtn", TEXT), out=path)
    return path


def test_a_run_for_a_pipeline_prints_what_a_log_reader_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = glmquant("run", BASELINE, "--recipe", "int8-rtn", "--out", tmp_path / "out", "--ci", *SETTINGS)
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert code == 0
    assert lines[0].startswith("✅ pass: onnx, ")
    assert any(line.split()[:5] == ["✅", "pass", "perplexity_ratio", "of", "text"] for line in lines)
    assert [line.split() for line in lines[-3:]] == [
        ["bundle", str(tmp_path / "out/onnx")],
        ["report", str(tmp_path / "out/report/report.html")],
        ["next", "glmquant", "chat", str(tmp_path / "out/onnx")],
    ]
    assert len(lines) <= 10
    assert "comparing, tokens: " in captured.err
    assert "\x1b" not in captured.err
    names = sorted(path.name for path in (tmp_path / "out/report").iterdir())
    assert names == ["junit.xml", "report.html", "report.json", "report.md"]
    assert "Error and bits of each layer" in (tmp_path / "out/report/report.html").read_text()


def test_the_end_of_a_check_says_that_no_report_was_written(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("check", out / "onnx", "--baseline", BASELINE, "--quiet", *SETTINGS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✅ pass: onnx, ")
    assert "report  not written" in "\n".join(lines)


def test_the_tables_are_printed_before_the_end_where_asked_for(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(out, "--verbose") == 0
    tables, end = capsys.readouterr().out.split("\n✅ pass: onnx, ")
    assert "## Text" in tables
    assert "next " in end
    assert check(out, "--verbose", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"


def test_what_to_do_next_depends_on_the_verdict(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--set", "check.num_tokens=128", "--set", "check.limits.perplexity_ratio=1.0005")
    verdicts = {
        ("--set", "check.limits.perplexity_ratio=0.5"): "next    glmquant recipes",
        few: "next    more text to check on: --set check.num_tokens=",
    }
    for settings, advice in verdicts.items():
        assert check(out, *settings) in (1, 3)
        assert advice in capsys.readouterr().out


def test_bundle_and_baseline_blocks_are_not_in_memory_together(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[weakref.ref[OnnxModel]] = []
    open_bundle, read_block, open_while_reading = OnnxModel.open, Checkpoint.block, []

    def opening(path: Path, **options: Any) -> OnnxModel:
        model = open_bundle(path, **options)
        opened.append(weakref.ref(model))
        return model

    def reading(self: Checkpoint, layer: int) -> Block:
        open_while_reading.append(sum(model() is not None for model in opened))
        return read_block(self, layer)

    monkeypatch.setattr(OnnxModel, "open", opening)
    monkeypatch.setattr(Checkpoint, "block", reading)
    gq.check(out / "onnx", baseline=BASELINE, recipe=gq.load_recipe("int8-rtn", TEXT))
    assert opened
    assert open_while_reading
    assert set(open_while_reading) == {0}


def check(out: Path, *arguments: object) -> int:
    return glmquant("check", out / "onnx", "--baseline", BASELINE, "--quiet", *SETTINGS, *arguments)


@pytest.mark.parametrize(
    ("mapped", "code"), [((), 3), (("--inconclusive", "pass"), 0), (("--inconclusive", "fail"), 1)]
)
def test_what_an_inconclusive_check_exits_with(out: Path, mapped: tuple[str, ...], code: int) -> None:
    one_window = ("--set", "check.num_tokens=64", "--set", "check.limits.perplexity_ratio=1.05")
    assert check(out, *one_window, *mapped) == code


def test_a_verdict_is_mapped_only_where_it_is_inconclusive(out: Path) -> None:
    assert check(out, "--set", "check.limits.perplexity_ratio=0.5", "--inconclusive", "pass") == 1
    assert check(out, "--set", "check.limits.perplexity_ratio=2", "--inconclusive", "fail") == 0


def test_against_an_earlier_report(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(out, "--against", out / "report", "--out", tmp_path / "again", "--ci") == 0
    assert "against.perplexity_ratio of text  1 (1 to 1)  " in capsys.readouterr().out
    assert "## Against onnx" in (tmp_path / "again/report.md").read_text()
    strict = ("--set", "check.against.perplexity_ratio=0.9")
    assert check(out, "--against", out / "report/report.json", *strict) == 1
    assert check(out, "--against", tmp_path / "nothing.json") == 2
    assert check(out, "--against", out / "report", "--set", "check.num_tokens=256") == 2


def test_what_the_baseline_says_is_computed_once(out: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    recipe = gq.load_recipe(None, TEXT)
    reports = []
    for _ in range(2):
        stages.clear()
        reports.append(
            gq.check(
                out / "onnx",
                baseline=BASELINE,
                recipe=recipe,
                cache=tmp_path / "cache",
                progress=lambda stage, done, total: stages.append(stage),
            )
        )
    assert "baseline, block by block" not in stages
    assert reports[0] == reports[1]
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(CheckError, match="cached baseline is damaged"):
        gq.check(out / "onnx", baseline=BASELINE, recipe=recipe, cache=tmp_path / "cache")


def test_several_reports_on_one_page(out: Path, tmp_path: Path) -> None:
    assert check(out, "--out", tmp_path / "other") == 0
    assert glmquant("report", out / "report", tmp_path / "other/report.json", "--out", tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert "Quality against size" in page
    assert ">other<" in page
    assert glmquant("report", tmp_path, "--out", tmp_path / "page.html") == 2


def checked(quantized: Path, directory: Path) -> Verdict:
    """The verdict of the demo recipe's own limits, on little text."""
    recipe = gq.load_recipe("demo", TEXT)
    bundle = gq.export(quantized, recipe, out=directory / "onnx")
    return gq.check(bundle, baseline=BASELINE, recipe=recipe).verdict


def test_two_bits_by_rounding_are_caught(tmp_path: Path) -> None:
    rules = [{"match": "*", "spec": {"bits": 2, "group_size": 128, "symmetric": False}}]
    gq.quantize(BASELINE, gq.load_recipe(None, {"rules": rules}), out=tmp_path / "quantized")
    assert checked(tmp_path / "quantized", tmp_path) is Verdict.FAIL


def test_one_layer_with_corrupted_scales_is_caught(tmp_path: Path) -> None:
    gq.quantize(BASELINE, gq.load_recipe("int4-g128-rtn"), out=tmp_path / "quantized")
    (path,) = [
        path
        for path in (tmp_path / "quantized").glob("*.safetensors")
        if "model.layers.3.self_attn.o_proj.scales" in load_file(path)
    ]
    tensors = load_file(path)
    scales = tensors["model.layers.3.self_attn.o_proj.scales"]
    tensors["model.layers.3.self_attn.o_proj.scales"] = scales.flip(1) * torch.linspace(0.25, 4, scales.shape[1]).half()
    save_file(tensors, path, {"format": "pt"})
    assert checked(tmp_path / "quantized", tmp_path) is Verdict.FAIL


def test_a_checkpoint_given_as_the_bundle_is_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    text = ("--text", assets.DIRECTORY / "held-out-en.txt")
    assert glmquant("check", assets.DEMO_MODEL, "--baseline", assets.DEMO_MODEL, *text) == 2
    assert "is not an ONNX bundle" in capsys.readouterr().err


def test_checks_are_compared_and_mixed_texts_are_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(out, "--out", tmp_path / "other") == 0
    capsys.readouterr()
    assert glmquant("compare", out / "report", tmp_path / "other", "--out", tmp_path / "page.html") == 0
    head, first, second, page = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "candidate"
    assert first.split()[1:3] == ["✅", "pass"]
    assert second.startswith("other ")
    assert "1 (1 to 1)" in second
    assert page == f"page  {tmp_path / 'page.html'}"
    assert "<h2>Compared</h2>" in (tmp_path / "page.html").read_text()
    assert glmquant("compare", out / "report", tmp_path / "other", "--json") == 0
    assert json.loads(capsys.readouterr().out)["candidates"][1]["against_first"]["perplexity_ratio"]["estimate"] == 1
    assert check(out, "--set", "check.num_tokens=256", "--out", tmp_path / "less") == 0
    assert glmquant("compare", out / "report", tmp_path / "less") == 2
    assert f"where: {tmp_path / 'less'}" in capsys.readouterr().err
