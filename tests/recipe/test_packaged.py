from pathlib import Path

import pytest

from glmquant.recipe.load import load_recipe
from glmquant.recipe.packaged import description, packaged_recipes


@pytest.mark.parametrize(("name", "path"), packaged_recipes().items())
def test_what_is_listed_is_what_the_recipe_says(name: str, path: Path) -> None:
    assert description(path) == load_recipe(name).description
