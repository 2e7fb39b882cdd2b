"""What is generated from the recipe's schema is up to date, and describes the recipes in the package."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from glmquant.methods import METHODS
from glmquant.recipe.load import RENAMED
from glmquant.recipe.packaged import packaged_recipes
from glmquant.recipe.reference import DOCUMENT, SCHEMA, known_keys, write
from tests.recipe.test_schema import Halved

VALIDATOR = jsonschema.Draft7Validator(json.loads(SCHEMA.read_bytes()))


def problems(recipe: dict[str, Any]) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(recipe)]


@pytest.mark.parametrize("committed", [SCHEMA, DOCUMENT], ids=lambda path: path.name)
def test_the_reference_is_up_to_date(committed: Path, tmp_path: Path) -> None:
    write(tmp_path / SCHEMA.name, tmp_path / DOCUMENT.name)
    fresh, kept = (tmp_path / committed.name).read_bytes(), committed.read_bytes().replace(b"\r\n", b"\n")
    assert kept == fresh, "run `python -m glmquant.recipe.reference`"
    assert b"\r" not in fresh


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_fit_the_schema_they_name(name: str) -> None:
    path = packaged_recipes()[name]
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve() == SCHEMA
    assert problems(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"fits": {}},
        {"fit": {"compensate": 0.5}},
        {"fit": {"error_propagation": 2}},
        {"rules": [{"match": "*", "spec": {"bits": 3}}]},
        {"rules": [{"match": "*", "spec": {"bits": 4, "group": 32}}]},
        {"rules": [{"match": "*", "spec": {"bits": 4}, "method": {"kind": "awq"}}]},
        {"rules": [{"match": "*", "spec": {"bits": 4}, "method": {"kind": "rtn", "damping": 0.1}}]},
        {"rules": [{"spec": {"bits": 4}}]},
        {"calibration": {"seq_len": "long"}},
        {"check": {"limits": {"mean_kl": "small"}}},
    ],
    ids=json.dumps,
)
def test_editors_see_what_is_wrong(change: dict[str, Any]) -> None:
    assert problems({"version": 1}) == []
    assert problems({"version": 1, **change})


def test_old_names_are_not_completed() -> None:
    known = set(known_keys())
    assert set(RENAMED.values()) <= known
    assert not set(RENAMED) & known


def test_every_key_is_in_the_document() -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    assert [key for key in known_keys() if f"| `{key.rpartition('.')[2]}` |" not in page] == []


def test_a_method_of_ones_own_is_in_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "halved", Halved)
        write(tmp_path / "schema.json", tmp_path / "page.md")
    own = jsonschema.Draft7Validator(json.loads((tmp_path / "schema.json").read_bytes()))
    recipe = {"version": 1, "rules": [{"match": "*", "method": {"kind": "halved", "strength": 1}}]}
    assert list(own.iter_errors(recipe)) == []
    assert problems(recipe)
    assert "of kind `halved`" in (tmp_path / "page.md").read_text(encoding="utf-8")
