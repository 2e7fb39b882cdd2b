from pathlib import Path

import pytest

from glmquant.errors import RecipeError
from glmquant.methods import METHODS, Gptq
from glmquant.recipe.load import load_recipe, parse_override
from glmquant.recipe.packaged import packaged_recipes
from glmquant.recipe.schema import Recipe

MINIMAL = "version: 1\nrules:\n  - {match: 'layers.*', spec: {bits: 4}, method: {kind: gptq, damping: 0.05}}\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_load_and_say_when_to_use_them(name: str) -> None:
    assert len(load_recipe(name).description) > 20


def test_a_recipe_by_path(tmp_path: Path) -> None:
    rule = load_recipe(written(tmp_path, MINIMAL)).rules[0]
    assert rule.method == Gptq(damping=0.05)
    assert (rule.spec.bits, rule.spec.group_size, rule.spec.symmetric) == (4, 128, True)


def test_a_recipe_survives_being_written_and_read() -> None:
    recipe = load_recipe("demo")
    assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_files_are_relative_to_the_recipe(tmp_path: Path) -> None:
    text = MINIMAL + "calibration: {data: [a.txt, 'glmquant:calibration.txt']}\ncheck: {tasks: [{data: t.jsonl}]}\n"
    recipe = load_recipe(written(tmp_path, text), {"check.text": ["here.txt"]})
    assert recipe.calibration.data == (str(tmp_path / "a.txt"), "glmquant:calibration.txt")
    assert recipe.check.tasks[0].data == str(tmp_path / "t.jsonl")
    assert recipe.check.text == ("here.txt",)


def test_overrides_reach_into_sections_and_lists() -> None:
    recipe = load_recipe(
        "int4-g128-gptq", dict([parse_override("rules.1.spec.bits=8"), parse_override("export.max_length=64")])
    )
    assert recipe.rules[1].spec.bits == 8
    assert recipe.export.max_length == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("calibration: {num_sample: 3}", r"unknown key 'calibration\.num_sample'"),
        ("calibration: {num_samples: many}", r"calibration\.num_samples: .*integer"),
        ("calibration: {num_samples: 0}", r"calibration\.num_samples"),
        ("export: {profile: fast}", r"export\.profile"),
        ("check: {tasks: [{data: x, prompt: none}]}", r"check\.tasks\.0: prompt must contain \{text\}"),
        ("calibration: {data: [a, b], weights: [1]}", r"1 weights for 2 files"),
        ("rules: [{match: a, spec: {bits: 3}}]", r"rules\.0\.spec: bits is 3; expected 2, 4 or 8"),
        ("rules: [{match: a, spec: {group_size: 100}}]", r"group_size is 100; expected a power of two"),
        (
            "rules: [{match: a, spec: {bits: 4}, method: {kind: awq}}]",
            r"unknown method kind 'awq'; expected one of gptq, rtn",
        ),
        ("rules: [{match: a, spec: {bits: 4}, method: {kind: [awq]}}]", r"unknown method kind \['awq'\]"),
        ("rules: [{match: a, spec: {bits: 4}, method: 5}]", r"the method is 5; expected its kind and options"),
        ("rules: [{match: a, spec: {bits: 4}, method: {kind: gptq, damp: 1}}]", r"gptq has no option 'damp'"),
        ("rules: [{match: a, spec: {bits: 4}, method: {kind: gptq, damping: x}}]", r"rules\.0\.method\.damping"),
        ("rules: [{match: a, spec: {bits: 4}, method: {kind: gptq, damping: 0}}]", r"damping is 0"),
        ("rules: [{match: a, keep: true, spec: {bits: 4}}]", r"either `keep: true` or a `spec`"),
        ("version: 2", r"version"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: str, message: str) -> None:
    text = change if change.startswith("version") else "version: 1\n" + change
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(written(tmp_path, text))
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "", "a: *b", "\ttab: 1"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        load_recipe(written(tmp_path, text))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"description: \xff")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(path)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(RecipeError, match="int4-g128-gptq"):
        load_recipe("int5")


@pytest.mark.parametrize("text", ["novalue", "=3", "a=[1"])
def test_overrides_that_cannot_be_read(text: str) -> None:
    with pytest.raises(RecipeError, match="overrides"):
        parse_override(text)


@pytest.mark.parametrize("key", ["rules.9.match", "rules.x", "version.a.b"])
def test_overrides_of_places_that_do_not_exist(key: str) -> None:
    with pytest.raises(RecipeError, match="overrides"):
        load_recipe("int8-rtn", {key: 1})


def test_every_method_can_be_named() -> None:
    assert all(method.kind == kind for kind, method in METHODS.items())
