from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmquant import api, assets
from glmquant.cli.rendering import summary_text
from glmquant.errors import OutputError
from glmquant.quantization import forecast as forecasting
from glmquant.quantization.memory import quantize_bytes
from glmquant.quantization.work import forward_work, quantize_work
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import open_checkpoint
from glmquant.streaming.activations import Batch
from glmquant.streaming.memory import FLOAT_BYTES, STORED_BYTES
from glmquant.streaming.resources import Resources
from tests.streaming.test_activations import on_disk
from tests.support.checkpoints import tiny_config
from tests.support.paths import CHATGLM2, contents

HEADS = ("int4-g128-rtn", "int4-g128-gptq-fast")
GPTQ = {
    "rules": [{"match": "*.o_proj", "spec": {"bits": 4, "group_size": 32}, "method": {"kind": "gptq"}}],
    "calibration.num_samples": 4,
    "calibration.seq_len": 16,
}


def test_work_is_counted_by_hand() -> None:
    config = open_checkpoint(CHATGLM2).config
    hidden, inner = config.hidden_size, config.intermediate_size
    qkv = config.query_rows + 2 * config.key_value_rows
    weights = hidden * (qkv + 2 * inner) + config.query_rows * hidden + inner * hidden
    assert forward_work(config, range(3), 10) == 3 * 2 * 10 * weights
    hessian = (2 * 10 + config.query_rows) * config.query_rows**2
    assert quantize_work(make_plan(load_recipe(None, GPTQ), config), [0, 1], 10) == 2 * (2 * 10 * weights + hessian)
    both = load_recipe(None, {**GPTQ, "fit.error_propagation": 0.5})
    assert quantize_work(make_plan(both, config), [0, 1], 10) == 2 * (2 * 2 * 10 * weights + hessian)


@pytest.mark.parametrize("recipe", ["int4-g128-rtn", "int8-rtn"])
def test_the_disk_that_is_predicted_holds_what_is_written(tmp_path: Path, recipe: str) -> None:
    chosen = load_recipe(recipe)
    found = api.inspect(assets.DEMO_MODEL, chosen, predict=True)
    assert found.forecast is not None
    api.quantize(assets.DEMO_MODEL, chosen, out=tmp_path / "out")
    written = sum(len(data) for name, data in contents(tmp_path / "out").items() if name.endswith(".safetensors"))
    assert written <= found.forecast.disk_bytes < 4 * written


def test_a_recipe_with_samples_has_stages_in_order_and_says_how_it_knows() -> None:
    recipe = load_recipe(None, {**GPTQ, "export.kv_cache": "int8"})
    found = api.inspect(CHATGLM2, recipe, predict=True)
    assert found.forecast is not None
    assert [stage.name for stage in found.forecast.stages] == ["calibrate", "quantize", "export"]
    assert all(stage.seconds > 0 for stage in found.forecast.stages)
    text = summary_text(found)
    assert "on this machine, about" in text
    assert "64 tokens" in text


def test_what_measuring_takes_counts_for_no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    measure = forecasting._measure
    monkeypatch.setattr(forecasting, "_measure", lambda *given: measured.append(1) or measure(*given))
    monkeypatch.setattr(forecasting, "peak_memory", lambda: 10**12 if measured else 10**9)
    found = api.inspect(CHATGLM2, load_recipe(None, GPTQ), predict=True).forecast
    assert found is not None
    assert measured
    assert all(10**9 < stage.peak_bytes < 2 * 10**9 for stage in found.stages)


def test_without_asking_nothing_is_measured() -> None:
    assert api.inspect(CHATGLM2, load_recipe(None, GPTQ)).forecast is None


def test_a_limit_below_one_block_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="one block alone needs"):
        api.quantize(CHATGLM2, load_recipe("int4-g128-rtn"), out=tmp_path / "out", memory_limit=10**6)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_below_one_block_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "_measure", None)
    with pytest.raises(OutputError, match="one block alone needs"):
        api.inspect(CHATGLM2, load_recipe(None, GPTQ), predict=True, memory_limit=10**6)


def test_a_head_with_many_rows_counts_in_float32_where_it_is_equalized() -> None:
    config = replace(tiny_config(), vocab_size=1_000_000)
    held = [quantize_bytes(make_plan(load_recipe(name, {}), config), torch.float32) for name in HEADS]
    assert held[1] - held[0] >= (FLOAT_BYTES - STORED_BYTES) * config.vocab_size * config.hidden_size
    assert held[1] >= (FLOAT_BYTES + STORED_BYTES) * config.vocab_size * config.hidden_size


def test_a_limit_sends_to_the_disk_what_it_does_not_hold(tmp_path: Path) -> None:
    batch = Batch((0,), 100, 0)
    tight = Resources(memory_limit=10_000_000).store(9_999_000, tmp_path, held=0)
    spilled, kept = tight.tensor(100, 1000, torch.float32), Resources().store(0).tensor(100, 1000, torch.float32)
    spilled.write(batch, torch.zeros(1, 100, 1000))
    assert on_disk(spilled, batch)
    assert not on_disk(kept, batch)


def test_an_allocation_is_foreseen_with_its_budget_as_size() -> None:
    rule = {"match": "layers.*", "spec": {"bits": 4, "group_size": 32}, "alternatives": [{"bits": 8, "group_size": 32}]}
    keys = {"rules": [rule], "calibration.num_samples": 4, "calibration.seq_len": 16}
    sizes = []
    for bits in (4.5, 8.0):
        recipe = load_recipe(None, {**keys, "allocate": {"average_bits": bits}})
        forecast = api.inspect(CHATGLM2, recipe, predict=True).forecast
        assert forecast is not None
        assert [stage.name for stage in forecast.stages] == ["allocate", "quantize", "export"]
        assert forecast.stages[0].seconds > 0
        sizes.append(forecast.disk_bytes)
    assert sizes[0] < sizes[1]
