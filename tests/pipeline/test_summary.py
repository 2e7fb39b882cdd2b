from pathlib import Path

from glmquant import api
from glmquant.recipe.load import load_recipe
from glmquant.store.checkpoint import open_checkpoint
from tests.paths import CHATGLM2


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
