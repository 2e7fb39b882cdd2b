"""Names of recipes that are compared, and what they share; docs/methods.md runs a whole comparison."""

from pathlib import Path
from typing import Any

import pytest

import glmquant as gq
from glmquant.errors import RecipeError
from glmquant.pipeline.compare import named_recipes, on_the_same_ground
from tests.hints.follow import follows, refused


def test_recipes_by_name_or_path_have_names() -> None:
    assert [*named_recipes(["int8-rtn", Path("mine.yaml")])] == ["int8-rtn", "mine"]


@pytest.mark.parametrize(
    "recipes", [["int8-rtn"], ["a/x.yaml", "b/x.yaml"], {"../up": 1, "b": 2}, {"baseline": 1, "b": 2}]
)
def test_names_must_tell_recipes_apart(recipes: Any) -> None:
    with pytest.raises(RecipeError):
        named_recipes(recipes)


@follows('give names: {"rtn": "int4-g128-rtn", "mine": recipe}')
def test_loaded_recipes_are_given_names() -> None:
    recipe = gq.load_recipe("int8-rtn")
    refused(lambda: named_recipes(["int4-g128-rtn", recipe]))
    assert [*named_recipes({"rtn": "int4-g128-rtn", "mine": recipe})] == ["rtn", "mine"]


def test_all_have_the_first_ones_calibration_and_check() -> None:
    names = ("int4-g128-gptq", "int8-rtn")
    loaded = {name: gq.load_recipe(name) for name in names}
    first, second = on_the_same_ground(loaded).values()
    assert first == loaded[names[0]]
    assert (second.calibration, second.check) == (first.calibration, first.check)
    assert (second.rules, second.export) == (loaded[names[1]].rules, loaded[names[1]].export)
