from pathlib import Path

import pytest

from glmquant.assets import DEMO_MODEL
from glmquant.recipe.load import load_recipe
from glmquant.recipe.packaged import description, packaged_recipes
from glmquant.store.checkpoint import open_checkpoint


@pytest.mark.parametrize(("name", "path"), packaged_recipes().items())
def test_what_is_listed_is_what_the_recipe_says(name: str, path: Path) -> None:
    assert description(path) == load_recipe(name).description


def test_the_demo_asks_for_no_longer_texts_than_its_model_takes() -> None:
    model = open_checkpoint(DEMO_MODEL)
    assert load_recipe("demo").export.max_length <= model.config.max_position_embeddings
