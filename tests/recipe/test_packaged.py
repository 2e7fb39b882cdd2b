from pathlib import Path

import pytest

from glmquant.assets import DEMO_MODEL
from glmquant.recipe.load import load_recipe
from glmquant.recipe.packaged import Measured, description, measured, packaged_recipes
from glmquant.store.checkpoint import open_checkpoint


@pytest.mark.parametrize(("name", "path"), packaged_recipes().items())
def test_what_is_listed_is_what_the_recipe_says(name: str, path: Path) -> None:
    assert description(path) == load_recipe(name).description


def test_the_demo_asks_for_no_longer_texts_than_its_model_takes() -> None:
    model = open_checkpoint(DEMO_MODEL)
    assert load_recipe("demo").export.max_length <= model.config.max_position_embeddings


def named(cell: str) -> str:
    """A row's name without what stands around it."""
    return cell.removeprefix("**ours:**").partition("** (")[0].strip("* ")


@pytest.mark.parametrize(("name", "row"), measured()[1].items())
def test_what_was_measured_is_what_the_committed_result_says(name: str, row: Measured) -> None:
    assert name in packaged_recipes()
    lines = (Path(__file__).parents[2] / row.source).read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    cells = next(cells for cells in table if named(cells[1]) == row.row)
    number = row.size.split()[0]
    assert number in cells
    assert row.perplexity_ratio in cells
    assert any(cell == row.mean_kl or cell.startswith(f"{row.mean_kl} (") for cell in cells)
    assert row.seconds in cells[-3:]
