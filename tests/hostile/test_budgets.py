"""Sizes from a stranger's file are looked at before they are multiplied, printed or padded to."""

import json
import time
from pathlib import Path

import pytest
import torch

from glmquant.core.budget import MOST_JSON_VALUES, Budget, product, require_few_values
from glmquant.core.qtensor import in_groups
from glmquant.core.spec import WIDEST_GROUP, QuantSpec
from glmquant.core.untrusted import parse_json, read_json, shown
from glmquant.errors import CheckpointError, GlmQuantError, RecipeError
from glmquant.recipe.load import load_recipe
from glmquant.reports.plots import layer_map
from glmquant.store.manifest import FORMAT_VERSION, GroupRecord, read_manifest, records_from_json


def test_a_budget_ends() -> None:
    budget = Budget(3, "things", "file")
    budget.spend(2)
    budget.spend(1)
    with pytest.raises(CheckpointError, match="too many things"):
        budget.spend(1)


@pytest.mark.parametrize(
    ("sizes", "found"), [([], 1), ([2, 3], 6), ([100], 100), ([101], None), ([2**62] * 100_000, None)]
)
def test_sizes_are_multiplied_no_further_than_a_limit(sizes: list[int], found: int | None) -> None:
    started = time.process_time()
    assert product(sizes, 100) == found
    assert time.process_time() - started < 1


def test_a_nought_behind_large_sizes_costs_nothing() -> None:
    assert product([50, 0, 2**100], 100) == 0


@pytest.mark.parametrize("unit", [b"{},", b"[],", b"1,", b'{"":{'])
def test_json_of_many_values_is_not_parsed(unit: bytes) -> None:
    raw = b"[" + unit * (MOST_JSON_VALUES // unit.count(b",") if b"," in unit else MOST_JSON_VALUES)
    started = time.process_time()
    with pytest.raises(CheckpointError, match="too many values"):
        parse_json(raw, "file")
    assert time.process_time() - started < 2


def test_an_honest_vocabulary_has_few_values() -> None:
    require_few_values(
        b'{"model": {"vocab": {' + b'"x": 1,' * 200_000 + b'}, "merges": [' + b'["a", "b"],' * 200_000, "x"
    )


@pytest.mark.parametrize("number", [10**5000, -(10**5000), 2**300], ids=["long", "negative", "300 bits"])
def test_a_number_too_long_to_print_is_shown(number: int) -> None:
    assert len(shown(number)) < 100


def test_a_number_too_long_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": ' + "1" * 5000 + "}")
    with pytest.raises(CheckpointError):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("size", [2 * WIDEST_GROUP, 1 << 62, 1 << 5000 * 4, 0, 3, -2], ids=range(6))
def test_a_group_wider_than_any_row_is_refused(size: int) -> None:
    with pytest.raises(RecipeError, match="group_size is"):
        QuantSpec(8, size)


def test_so_it_is_in_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f'version: 1\nrules: [{{match: "*", spec: {{bits: 8, group_size: {1 << 62}}}}}]\n')
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "r.yaml")


def test_nothing_is_padded_to_a_group_wider_than_its_row() -> None:
    spec = QuantSpec(8, WIDEST_GROUP)
    assert (spec.width(128), spec.num_groups(128)) == (128, 1)
    assert in_groups(torch.zeros(3, 128), spec).shape == (3, 1, 128)


RECORDS = {
    "a layer of letters": '[{"name": "layers.abc.q"}]',
    "a layer of 5,000 digits": '[{"name": "layers.' + "9" * 5000 + '.q"}]',
    "a layer beyond any": '[{"name": "layers.99999.q"}]',
    "no layer": '[{"name": ""}]',
    "a break": '[{"name": "layers.1.q\\n::error::"}]',
    "negative": '[{"name": "lm_head", "weight_error": -1.0}]',
    "infinite": '[{"name": "lm_head", "output_error": 1e999}]',
}


@pytest.mark.parametrize("text", RECORDS.values(), ids=RECORDS)
def test_records_that_no_plot_could_be_drawn_of_are_refused(text: str) -> None:
    with pytest.raises(GlmQuantError):
        records_from_json(text, Path("glmquant.json"))


def test_a_manifest_of_a_head_alone_is_refused(tmp_path: Path) -> None:
    values = {"format_version": FORMAT_VERSION, "glmquant_version": "0", "source_name": "m", "source_fingerprint": "f"}
    values |= {"family": "chatglm2", "recipe": {}, "calibration": None, "libraries": {}}
    path = tmp_path / "glmquant.json"
    path.write_text(json.dumps(values | {"groups": [{"name": "lm_head"}, {"name": "layers.0.mlp.down_proj"}]}))
    assert len(read_manifest(path).groups) == 2
    path.write_text(json.dumps(values | {"groups": [{"name": "lm_head"}]}))
    with pytest.raises(CheckpointError, match="groups name no block"):
        read_manifest(path)


def test_a_model_of_a_head_alone_is_drawn() -> None:
    assert "lm_head" in layer_map((GroupRecord("lm_head"),))
