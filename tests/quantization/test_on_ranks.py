"""Any number of ranks writes what one process writes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmquant.data.calibration import CalibrationSet
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import open_checkpoint
from tests.quantization.test_threads import dense, scaled, sparse
from tests.support.checkpoints import write_checkpoint
from tests.support.paths import contents
from tests.support.ranks import torchrun

WORKER = Path(__file__).parent / "ranks_worker.py"
SAMPLES, LENGTH = 21, 1024
"""A leaf is eight batches of two samples: two leaves, the second one short."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds, with rows for several slices."""
    directory = tmp_path_factory.mktemp("models")
    for name, config in (("dense", dense()), ("sparse", sparse())):
        wide = replace(config, intermediate_size=2064, max_position_embeddings=LENGTH)
        write_checkpoint(directory / name, wide, scaled(wide))
    return directory


def alone(model: Path, recipe: str, out: Path) -> dict[str, bytes]:
    checkpoint = open_checkpoint(model)
    out.mkdir()
    quantize(checkpoint, make_plan(load_recipe(recipe, {}), checkpoint.config), samples(), out)
    return contents(out)


def samples() -> CalibrationSet:
    tokens = torch.randint(0, 150, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(1))
    return CalibrationSet(tokens, (), "0" * 64, 0)


CASES = [
    ("dense", "int4-g128-gptq", 2),
    ("sparse", "moe-int4-g128-gptq", 2),
    pytest.param("dense", "int4-g128-gptq", 3, marks=pytest.mark.slow),
    pytest.param("dense", "int4-g128-gptq", 4, marks=pytest.mark.slow),
    pytest.param("dense", "int4-auto-4.25", 2, marks=pytest.mark.slow),
    pytest.param("dense", "int8-rtn", 2, marks=pytest.mark.slow),
    pytest.param("sparse", "moe-int4-g128-gptq", 3, marks=pytest.mark.slow),
    pytest.param("sparse", "moe-int2-g64-gptq", 4, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "recipe", "ranks"), CASES)
def test_ranks_write_what_one_process_writes(model: Path, tmp_path: Path, kind: str, recipe: str, ranks: int) -> None:
    expected = alone(model / kind, recipe, tmp_path / "alone")
    (tmp_path / "shared").mkdir()
    done = torchrun(ranks, WORKER, model / kind, recipe, tmp_path / "shared")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "shared") == expected
