import json
from pathlib import Path
from typing import Any

import pytest

from glmquant import api
from glmquant.recipe.load import load_recipe
from glmquant.store.checkpoint import open_checkpoint
from tests.support.paths import CHATGLM2


def test_parameters_are_counted() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    assert api.inspect(CHATGLM2).num_parameters * 2 == checkpoint.tensor_bytes


def test_predicted_bytes_are_those_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = load_recipe("int4-g128-rtn")
    predicted = sum(group.num_bytes for group in api.inspect(CHATGLM2, recipe).groups)
    written = api.quantize(CHATGLM2, recipe, out=out)
    config = written.config
    kept = 2 * config.vocab_size * config.hidden_size + 2 * (2 * config.num_hidden_layers + 1) * config.hidden_size
    biases = 2 * config.num_hidden_layers * (config.query_rows + 2 * config.key_value_rows)
    index_and_zeros = written.tensor_bytes - kept - biases - predicted
    assert 0 <= index_and_zeros < 0.03 * predicted


@pytest.mark.parametrize(
    ("layout", "head", "readers"),
    [
        ("fused", {"keep": True}, ("glmquant", "transformers")),
        ("split", {"keep": True}, ("glmquant", "GPTQModel")),
        ("fused", {"spec": {"bits": 8, "group_size": 32}}, ("glmquant",)),
        ("split", {"spec": {"bits": 8, "group_size": 32}}, ("glmquant", "GPTQModel")),
    ],
)
def test_who_else_reads_an_artifact(
    tmp_path: Path, layout: str, head: dict[str, Any], readers: tuple[str, ...]
) -> None:
    rules = [{"match": "lm_head", **head}, {"match": "*", "spec": {"bits": 4, "group_size": 32}}]
    recipe = load_recipe(None, {"rules": rules, "store.layout": layout})
    written = api.quantize(CHATGLM2, recipe, out=tmp_path / "out")
    assert api.inspect(written.path).readers == readers
    names = " ".join(json.loads((written.path / "model.safetensors.index.json").read_text())["weight_map"])
    assert ("mlp.up_proj.qweight" in names) == (layout == "split")
    assert ("gate_up_proj.qweight" in names) == (layout == "fused")
    assert api.export(written, out=tmp_path / "onnx").path == tmp_path / "onnx"
