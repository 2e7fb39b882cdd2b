"""A checkpoint quantized by a recipe of glmquant. Runs in this benchmark's environment.

python write_ours.py FLOAT_CHECKPOINT CALIBRATION OPTIONS.json OUT

OPTIONS: ``recipe`` (a name, a path, or null) and ``overrides``. Rules for ``lm_head`` are left out. Of the calibration
only the tokens are taken, so that everything a method needs to know is counted in its time.
"""

import json
import sys
from pathlib import Path

from glmquant import api
from glmquant.recipe.load import load_recipe
from glmquant.store.calibration import read_calibration


def main() -> None:
    source, calibration, text, out = sys.argv[1:]
    options = json.loads(text)
    recipe = load_recipe(options["recipe"], options["overrides"])
    rules = tuple(rule for rule in recipe.rules if rule.match != "lm_head")
    samples = read_calibration(Path(calibration)).samples
    api.quantize(source, recipe.model_copy(update={"rules": rules}), samples, out=out)


if __name__ == "__main__":
    main()
