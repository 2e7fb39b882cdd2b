"""Hints of arguments in each other's place."""

from pathlib import Path

from glmquant import assets
from glmquant.cli.swapped import require_bundle_before_baseline, require_recipe_after_model
from tests.hints.follow import follows, refused

MODEL = str(assets.DEMO_MODEL)


@follows("swap them: glmquant run {} --recipe {}")
def test_a_recipe_and_a_model_are_swapped_back() -> None:
    error = refused(lambda: require_recipe_after_model("int8-rtn", MODEL))
    _, _, _, _, model, _, recipe = str(error.hint).split()
    require_recipe_after_model(model, recipe)


@follows("give a recipe's name or file")
def test_a_directory_is_no_recipe() -> None:
    refused(lambda: require_recipe_after_model(MODEL, MODEL))
    require_recipe_after_model(MODEL, "int8-rtn")


@follows("swap them: glmquant check {} --baseline {}")
def test_a_bundle_and_its_baseline_are_swapped_back(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    error = refused(lambda: require_bundle_before_baseline(assets.DEMO_MODEL, str(tmp_path)))
    _, _, _, _, bundle, _, baseline = str(error.hint).split()
    require_bundle_before_baseline(Path(bundle), baseline)
