"""A float checkpoint exported by rules of kind rtn gives the bundle that quantizing it first would give."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glmquant import api, assets
from glmquant.errors import CalibrationError
from glmquant.glm.block import Block
from glmquant.quantization import on_the_fly as rounded
from glmquant.quantization.prepare import float_block
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import open_checkpoint
from glmquant.store.manifest import MANIFEST, read_manifest
from tests.store.test_quantized_checkpoints import published, row_quantized, write
from tests.support.classifiers import HEAD_SHARD, golden_classifier
from tests.support.paths import CHATGLM2, contents

MIXED = [
    {"match": "layers.1.*", "keep": True},
    {"match": "*.down_proj", "spec": {"bits": 8, "group_size": 32, "symmetric": False}},
    {"match": "layers.*", "spec": {"bits": 4, "group_size": 32}},
]


def both_ways(model: Path, directory: Path, rules: Any, **overrides: Any) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What lies in the bundle exported directly, and in the one of the quantized checkpoint."""
    recipe = load_recipe(None, {"rules": rules, **overrides})
    quantized = api.quantize(model, recipe, out=directory / "quantized")
    first, second = directory / "directly", directory / "of-quantized"
    api.export(model, recipe, out=first)
    api.export(quantized, recipe, out=second)
    return contents(first), contents(second)


@pytest.mark.parametrize("equalize", [False, True])
@pytest.mark.parametrize("profile", ["ort", "standard"])
def test_the_bundle_is_the_same(tmp_path: Path, profile: str, equalize: bool) -> None:
    rules = [{"match": "lm_head", "spec": {"bits": 8, "group_size": 64}}, *MIXED]
    options = {"export.profile": profile, "fit.equalize": equalize, "export.embedding": {"bits": 8, "group_size": 32}}
    directly, in_two_steps = both_ways(CHATGLM2, tmp_path, rules, **options)
    assert directly == in_two_steps
    assert MANIFEST in directly


@pytest.mark.parametrize("profile", ["ort", "standard"])
def test_the_bundle_is_the_same_in_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    monkeypatch.setattr("glmquant.core.parallel.STRIP_ELEMENTS", 1000)
    monkeypatch.setattr("glmquant.onnx_export.matrices.PIECE_ELEMENTS", 5000)
    directly, in_two_steps = both_ways(CHATGLM2, tmp_path, MIXED, **{"export.profile": profile})
    assert directly == in_two_steps


def test_a_single_wide_group_is_the_same(tmp_path: Path) -> None:
    rules = [{"match": "*.o_proj", "spec": {"bits": 4, "group_size": 256}}, *MIXED]
    directly, in_two_steps = both_ways(CHATGLM2, tmp_path, rules)
    assert directly == in_two_steps


@pytest.mark.parametrize("bits", [4, 8])
def test_the_bundle_of_published_rows_is_the_same(tmp_path: Path, bits: int, caplog: pytest.LogCaptureFixture) -> None:
    source = write(tmp_path / "source", row_quantized(published(), bits), quantization_bit=bits)
    with caplog.at_level("INFO"):
        directly, in_two_steps = both_ways(source, tmp_path, MIXED, **{"fit.equalize": True})
    assert directly == in_two_steps
    assert "quantized anew" in caplog.text


@pytest.mark.parametrize("biased", [True, False])
def test_the_bundle_of_a_classifier_is_the_same(tmp_path: Path, biased: bool) -> None:
    model = golden_classifier(tmp_path, "chatglm2-tiny", ("bad", "good", "so-so"))
    if not biased:
        head = torch.load(model / HEAD_SHARD)
        torch.save(head | {"classifier_head.bias": torch.zeros_like(head["classifier_head.bias"])}, model / HEAD_SHARD)
    directly, in_two_steps = both_ways(model, tmp_path, MIXED, **{"fit.equalize": True})
    assert directly == in_two_steps


def test_a_float_block_goes_with_what_is_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[weakref.ref[Any]] = []

    def remembered(*arguments: Any) -> Block:
        block = float_block(*arguments)
        read.append(weakref.ref(block.linears()["mlp.down_proj"].weight))
        return block

    monkeypatch.setattr(rounded, "float_block", remembered)
    recipe = load_recipe(None, {"rules": [{"match": "*", "spec": {"bits": 8, "group_size": 32}}]})
    checkpoint = open_checkpoint(CHATGLM2)
    source = rounded.QuantizedOnTheFly(checkpoint, make_plan(recipe, checkpoint.config))
    layers = source.config.num_hidden_layers
    for layer in range(layers):
        block = source.block(layer)
        assert read[layer]() is not None
        del block
        assert [each() for each in read[: layer + 1]] == [None] * (layer + 1)
    assert len(read) == layers


def test_a_recipe_that_keeps_everything_exports_the_checkpoint_as_it_is(tmp_path: Path) -> None:
    kept = load_recipe(None, {"rules": [{"match": "*", "keep": True}]})
    api.export(CHATGLM2, kept, out=tmp_path / "kept")
    api.export(CHATGLM2, out=tmp_path / "plain")
    assert contents(tmp_path / "kept") == contents(tmp_path / "plain")


ALLOCATED = {
    "rules": [{"match": "layers.*", "spec": MIXED[2]["spec"], "alternatives": [{"bits": 8, "group_size": 32}]}],
    "allocate": {"average_bits": 6},
}
FITTED = {"rules": [{**MIXED[2], "method": {"kind": "gptq"}}]}


@pytest.mark.parametrize(
    ("recipe", "where"), [(FITTED, "rule for layers.0.self_attn.qkv_proj"), (ALLOCATED, "allocate")]
)
def test_rules_that_need_samples_are_refused(tmp_path: Path, recipe: dict[str, Any], where: str) -> None:
    with pytest.raises(CalibrationError, match="calibration samples") as refused:
        api.export(assets.DEMO_MODEL, load_recipe(None, recipe), out=tmp_path / "onnx")
    assert where in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_quantized_checkpoint_is_exported_by_any_recipe(tmp_path: Path) -> None:
    api.quantize(CHATGLM2, load_recipe("int8-rtn"), out=tmp_path / "quantized")
    recipe = load_recipe("int4-g128-gptq")
    api.export(tmp_path / "quantized", recipe, out=tmp_path / "onnx")
    exported, quantized = (
        replace(read_manifest(tmp_path / name / MANIFEST), files={}) for name in ("onnx", "quantized")
    )
    assert exported == replace(quantized, limits=recipe.check.limits)
    assert exported != quantized
