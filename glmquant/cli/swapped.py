"""Arguments in each other's place, noticed before one of them is called damaged."""

from pathlib import Path
from typing import Final

from glmquant.errors import GlmQuantError

GRAPH: Final = "model.onnx"
CONFIG: Final = "config.json"
YAML: Final = (".yaml", ".yml")


def require_recipe_after_model(model: str, recipe: str) -> None:
    """Raises GlmQuantError for ``run RECIPE --recipe MODEL``."""
    if Path(recipe).is_dir() or (_is_recipe(model) and not _is_recipe(recipe)):
        raise GlmQuantError(
            f"{recipe} is no recipe" + (f", but {model} is one" if _is_recipe(model) else ": it is a directory"),
            expected="the model as the argument, and the recipe as --recipe",
            hint=f"swap them: glmquant run {recipe} --recipe {model}"
            if _is_recipe(model)
            else "give a recipe's name or file",
        )


def require_bundle_before_baseline(bundle: Path, baseline: str) -> None:
    """Raises GlmQuantError for ``check MODEL --baseline BUNDLE``."""
    if (Path(baseline) / GRAPH).is_file() and not (bundle / GRAPH).is_file() and (bundle / CONFIG).is_file():
        raise GlmQuantError(
            f"{baseline} is an ONNX bundle, and {bundle} is none",
            expected="the bundle as the argument, and the float checkpoint as --baseline",
            hint=f"swap them: glmquant check {baseline} --baseline {bundle}",
        )


def _is_recipe(name: str) -> bool:
    from glmquant.recipe.packaged import packaged_recipes

    return not Path(name).is_dir() and (name in packaged_recipes() or Path(name).suffix in YAML)
