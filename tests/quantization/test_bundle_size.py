"""The forecast of a bundle's size against bundles that were written."""

from pathlib import Path
from typing import Any

import pytest

from glmquant.assets import DEMO_MODEL
from glmquant.onnx_export.save import export_bundle
from glmquant.quantization.bundle_size import bundle_forecast
from glmquant.quantization.on_the_fly import QuantizedOnTheFly
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import open_checkpoint
from tests.support.moe import write_moe

RECIPES: dict[str, dict[str, Any]] = {
    "int8-rtn": {},
    "int4-g128-rtn": {},
    "float": {"rules": [{"match": "*", "keep": True}]},
    "whole rows": {"rules": [{"match": "*", "spec": {"bits": 8, "group_size": -1}, "method": {"kind": "rtn"}}]},
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("sparse", [False, True])
def test_a_bundle_is_as_large_as_foretold(name: str, sparse: bool, tmp_path: Path) -> None:
    if sparse:
        shapes = {"hidden_size": 256, "moe_intermediate_size": 256, "q_lora_rank": 128, "kv_lora_rank": 128}
        write_moe(tmp_path / "model", "glm4_moe_lite", **shapes, intermediate_size=512, vocab_size=2048)
    checkpoint = open_checkpoint(tmp_path / "model" if sparse else DEMO_MODEL)
    recipe = load_recipe(name if name.endswith("rtn") else None, RECIPES[name])
    plan = make_plan(recipe, checkpoint.config)
    (tmp_path / "out").mkdir()
    source = checkpoint if name == "float" else QuantizedOnTheFly(checkpoint, plan)
    bundle = export_bundle(source, recipe.export, tmp_path / "out")
    foretold = bundle_forecast(plan)
    assert foretold.num_bytes == pytest.approx(bundle.size, rel=0.03)
    shape = [each.shape for each in bundle.inputs if each.name.startswith("past_key_values.")]
    assert foretold.cache_bytes == 4 * sum(int(heads) * int(width) for _, heads, _, width in shape)
    assert foretold.memory_bytes > foretold.num_bytes
