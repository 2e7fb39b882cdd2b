"""A float checkpoint exported by rules of kind rtn gives the bundle that quantising it first would give."""

from pathlib import Path
from typing import Any

import pytest

from glmquant import api, assets
from glmquant.errors import CalibrationError
from glmquant.recipe.load import load_recipe
from glmquant.store.manifest import MANIFEST
from tests.classifiers import golden_classifier
from tests.paths import CHATGLM2, contents
from tests.store.test_quantized_checkpoints import published, row_quantized, write

MIXED = [
    {"match": "layers.1.*", "keep": True},
    {"match": "*.down_proj", "spec": {"bits": 8, "group_size": 32, "symmetric": False}},
    {"match": "layers.*", "spec": {"bits": 4, "group_size": 32}},
]


def both_ways(model: Path, directory: Path, rules: Any, **overrides: Any) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What lies in the bundle exported directly, and in the one of the quantised checkpoint."""
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
    options = {"export.profile": profile, "fit.equalize": equalize}
    directly, in_two_steps = both_ways(CHATGLM2, tmp_path, rules, **options)
    assert directly == in_two_steps
    assert MANIFEST in directly


def test_the_bundle_of_published_rows_is_the_same(tmp_path: Path) -> None:
    source = write(tmp_path / "source", row_quantized(published(), 8), quantization_bit=8)
    directly, in_two_steps = both_ways(source, tmp_path, MIXED)
    assert directly == in_two_steps


def test_the_bundle_of_a_classifier_is_the_same(tmp_path: Path) -> None:
    model = golden_classifier(tmp_path, "chatglm2-tiny", ("bad", "good", "so-so"))
    directly, in_two_steps = both_ways(model, tmp_path, MIXED)
    assert directly == in_two_steps


def test_a_recipe_that_keeps_everything_exports_the_checkpoint_as_it_is(tmp_path: Path) -> None:
    kept = load_recipe(None, {"rules": [{"match": "*", "keep": True}]})
    api.export(CHATGLM2, kept, out=tmp_path / "kept")
    api.export(CHATGLM2, out=tmp_path / "plain")
    assert contents(tmp_path / "kept") == contents(tmp_path / "plain")


@pytest.mark.parametrize("recipe", ["int4-g128-gptq", "int4-auto-4.25"])
def test_rules_that_need_samples_are_refused(tmp_path: Path, recipe: str) -> None:
    with pytest.raises(CalibrationError, match="needs calibration samples"):
        api.export(assets.DEMO_MODEL, load_recipe(recipe), out=tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_a_quantised_checkpoint_is_exported_by_any_recipe(tmp_path: Path) -> None:
    api.quantize(CHATGLM2, load_recipe("int8-rtn"), out=tmp_path / "quantized")
    api.export(tmp_path / "quantized", load_recipe("int4-g128-gptq"), out=tmp_path / "onnx")
    assert (tmp_path / "onnx" / MANIFEST).read_bytes() == (tmp_path / "quantized" / MANIFEST).read_bytes()
