"""Quantizes on the ranks that torchrun starts: MODEL RECIPE SAMPLES EXISTING_DIRECTORY."""

import sys
from pathlib import Path

from glmquant.core.ranks import joined
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import open_checkpoint
from tests.quantization.test_on_ranks import samples

if __name__ == "__main__":
    model, recipe, count, out = sys.argv[1:5]
    checkpoint = open_checkpoint(Path(model))
    with joined() as ranks:
        quantize(
            checkpoint,
            make_plan(load_recipe(recipe, {}), checkpoint.config),
            samples(int(count)),
            Path(out),
            ranks=ranks,
        )
        ranks.barrier()
