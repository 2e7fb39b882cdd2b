"""Several recipes on one model, each run in full, and compared on the same ground."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from glmquant.errors import Parameter, RecipeError
from glmquant.pipeline.run import run_directory
from glmquant.progress import Progress
from glmquant.recipe.plan import make_plan
from glmquant.recipe.schema import Recipe
from glmquant.reports.comparison import ReportComparison, compare_reports
from glmquant.reports.write import write_page
from glmquant.store.checkpoint import Checkpoint
from glmquant.streaming.resources import Resources

Named = Recipe | str | Path

log = logging.getLogger("glmquant")
BASELINE, PAGE = "baseline", "comparison.html"
NAME: Final = re.compile(r"[\w][\w.+-]{0,79}")


def named_recipes(recipes: Mapping[str, Named] | Sequence[Named]) -> dict[str, Named]:
    """The recipes under the names they are to be told apart by: those given, or of recipes by name or path, theirs.

    Raises:
        RecipeError: fewer than two, a loaded recipe without a name, two of one name, or a name that no directory of
            the comparison can have.
    """
    if isinstance(recipes, Mapping):
        pairs = [(str(name), recipe) for name, recipe in recipes.items()]
    else:
        pairs = [(Path(recipe).stem if isinstance(recipe, str | Path) else "", recipe) for recipe in recipes]
    for name, _ in pairs:
        if not NAME.fullmatch(name) or name in (BASELINE, PAGE):
            raise RecipeError(
                f"{name!r} is no name to tell a recipe by" if name else "a loaded recipe has no name",
                where=Parameter("recipes"),
                expected="letters, digits, -, _, + and .",
                hint='give names: {"rtn": "int4-g128-rtn", "mine": recipe}',
            )
    if len(pairs) < 2 or len(dict(pairs)) < len(pairs):
        raise RecipeError(
            "there is nothing to compare" if len(pairs) < 2 else "two recipes have one name",
            where=Parameter("recipes"),
            expected="two recipes or more, each with a name of its own",
        )
    return dict(pairs)


def on_the_same_ground(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Each with the first one's calibration and check."""
    first = next(iter(recipes.values()))
    shared = {"calibration": first.calibration, "check": first.check, "model": first.model}
    return {name: recipe.model_copy(update=shared) for name, recipe in recipes.items()}


def compare_recipes(
    checkpoint: Checkpoint, recipes: Mapping[str, Recipe], out: Path, resources: Resources, progress: Progress
) -> ReportComparison:
    """Runs each recipe into a directory of its name; see :func:`glmquant.api.compare_recipes`."""
    for recipe in recipes.values():
        make_plan(recipe, checkpoint.config)
    reports = []
    for number, (name, recipe) in enumerate(recipes.items(), 1):
        log.info("recipe %d of %d: %s", number, len(recipes), name)
        report = run_directory(checkpoint, recipe, out / name, resources, None, progress, cache=out / BASELINE)
        reports.append((out / name / "report", report))
    comparison = replace(compare_reports(reports), page=out / PAGE)
    write_page(comparison.reports, out / PAGE, comparison.table())
    return comparison
