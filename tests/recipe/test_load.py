import re
from pathlib import Path
from typing import Any

import pytest

from glmquant.errors import RecipeError
from glmquant.methods import METHODS, Gptq
from glmquant.recipe.load import load_recipe, packaged_recipes, parse_override
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
        ("calibration: {num_samples: many}", r"calibration\.num_samples is 'many'; expected a valid integer$"),
        ("calibration: {num_samples: 0}", r"calibration\.num_samples is 0; expected greater than or equal to 1"),
        ("calibration: 3", r"calibration is 3; expected keys and values"),
        ("calibration: {data: text.txt}", r"calibration\.data is '.*text\.txt'; expected a list"),
        ("export: {profile: fast}", r"export\.profile is 'fast'; expected 'ort' or 'standard'"),
        ("rules: [{spec: {bits: 4}}]", r"rules\.0\.match is missing"),
        ("check: {tasks: [{data: x, prompt: none}]}", r"check\.tasks\.0: prompt must contain \{text\}"),
        ("calibration: {data: [a, b], weights: [1]}", r"1 weights for 2 files"),
        ("rules: [{match: a, spec: {bits: 3}}]", r"rules\.0\.spec: bits is 3; expected 2, 4 or 8"),
        ("rules: [{match: a, spec: {group_size: 100}}]", r"group_size is 100; expected a power of two"),
        (
            "rules: [{match: a, spec: {bits: 4}, method: {kind: awq}}]",
            r"unknown method kind 'awq'; expected one of gptq, rtn",
        ),
        (
            "rules: [{match: a, spec: {bits: 4}, method: {kind: [awq]}}]",
            r"say its kind; expected kind: one of gptq, rtn",
        ),
        (
            "rules: [{match: a, spec: {bits: 4}, method: {damping: 1}}]",
            r"say its kind; expected kind: one of gptq, rtn",
        ),
        ("rules: [{match: a, spec: {bits: 4}, method: 5}]", r"rules\.0\.method is 5; expected keys and values"),
        (
            "rules: [{match: a, spec: {bits: 4}, method: {kind: gptq, damp: 1}}]",
            r"unknown key 'rules\.0\.method\.damp'",
        ),
        (
            "rules: [{match: a, spec: {bits: 4}, method: {kind: gptq, damping: x}}]",
            r"rules\.0\.method\.damping is 'x'; expected a valid number$",
        ),
        (
            "rules: [{match: a, spec: {bits: 4}, method: {kind: gptq, damping: 0}}]",
            r"rules\.0\.method\.damping is 0; expected greater than 0",
        ),
        ("rules: [{match: a, keep: true, spec: {bits: 4}}]", r"either `keep: true` or a `spec`"),
        ("version: 2", r"version"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: str, message: str) -> None:
    text = change if change.startswith("version") else "version: 1\n" + change
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text))
    assert re.search(message, caught.value.what)
    assert str(caught.value.where) == str(tmp_path / "mine.yaml")
    assert "docs/recipe.md" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("calibration.num_sample", "calibration.num_samples"),
        ("fit.equalise", "fit.equalize"),
        ("equalize", "fit.equalize"),
        ("rules.1.method.dampening", "rules.1.method.damping"),
        ("rules.0.spec.groupsize", "rules.0.spec.group_size"),
        ("check.limits.perplexity_rato", "check.limits.perplexity_ratio"),
        ("model.famly", "model.family"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(key: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown key '{key}'") as caught:
        load_recipe("int4-g128-gptq", {key: 1})
    assert str(caught.value.hint).startswith(f"did you mean {meant}?")
    assert "docs/recipe.md" in str(caught.value.hint)


def test_an_error_names_recipe_and_overrides() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("int8-rtn", {"export.max_length": 0, "calibration.seed": 1})
    assert re.search(r"int8-rtn\.yaml and the overrides of export\.max_length, cal", str(caught.value.where))
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, {"export.max_length": 0})
    assert caught.value.where == "the overrides of export.max_length"


def test_a_key_like_no_other_is_not_guessed_at() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, {"xyzzy": 1})
    assert caught.value.hint == "docs/recipe.md describes every key"


def test_many_mistakes_are_told_in_a_few_lines(tmp_path: Path) -> None:
    rules = "".join(f"  - {{match: a, keep: {'x' * 1000}}}\n" for _ in range(200))
    with pytest.raises(RecipeError, match="and 190 more") as caught:
        load_recipe(written(tmp_path, f"version: 1\nrules:\n{rules}"))
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nfit: {equalize: true}\nfit: {equalize: false}\n",
        "version: 1\nfit: {equalize: true, equalize: false}\n",
        "version: 1\nrules:\n  - match: a\n    keep: true\n    match: b\n",
    ],
)
def test_a_key_given_twice_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"the key '\w+' is given twice[\s\S]*line [2345]"):
        load_recipe(written(tmp_path, text))


def test_a_key_merged_from_an_anchor_may_be_given_again(tmp_path: Path) -> None:
    rules = "  - &int4 {match: 'layers.0.*', spec: {bits: 4}}\n  - {<<: *int4, match: 'layers.*'}\n"
    first, second = load_recipe(written(tmp_path, f"version: 1\nrules:\n{rules}")).rules
    assert (first.match, second.match, first.spec) == ("layers.0.*", "layers.*", second.spec)


OLD = """version: 1
rules:
  - {match: lm_head, spec: {bits: 8}}
  - {match: 'layers.*', spec: {bits: 4}, method: {kind: gptq, descent: 3}}
  - {match: '*', spec: {bits: 4}, method: {kind: gptq, descent: 2}}
fit: {compensate: 0.5}
check: {tasks: [{data: t.jsonl, kind: multiple_choice, scoring: length_normalised}]}
"""


def test_old_names_are_read_with_one_note_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe(written(tmp_path, OLD))
    assert recipe.fit.error_propagation == 0.5
    assert [rule.method for rule in recipe.rules[1:]] == [Gptq(coordinate_descent=3), Gptq(coordinate_descent=2)]
    assert recipe.check.tasks[0].scoring == "length_normalized"
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "fit.compensate is now called error_propagation",
        "rules.*.method.descent is now called coordinate_descent",
        "check.tasks.*.scoring: length_normalised is now called length_normalized",
    ]
    assert "mine.yaml" in caplog.records[0].getMessage()


def test_the_names_of_today_are_read_without_a_note(caplog: pytest.LogCaptureFixture) -> None:
    load_recipe("int4-g128-gptq", {"fit.error_propagation": 1.0})
    assert caplog.records == []


def test_overrides_may_have_old_names(caplog: pytest.LogCaptureFixture) -> None:
    task = {"data": "t.jsonl", "kind": "multiple_choice"}
    overrides: dict[str, Any] = {
        "fit.compensate": 1.0,
        "rules.1.method.descent": 7,
        "check.tasks": [task],
        "check.tasks.0.scoring": "length_normalised",
    }
    recipe = load_recipe("int4-g128-gptq", overrides)
    assert recipe.fit.error_propagation == 1.0
    assert recipe.rules[1].method == Gptq(damping=0.1, relative_damping=0.5, coordinate_descent=7)
    assert recipe.check.tasks[0].scoring == "length_normalized"
    assert task == {"data": "t.jsonl", "kind": "multiple_choice"}, "what the caller gave stays as it was"
    assert len(caplog.records) == 3


def test_a_key_under_both_its_names_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"both 'compensate' and 'error_propagation'[\s\S]*fit\.error_propagation"):
        load_recipe(written(tmp_path, "version: 1\nfit: {compensate: 1, error_propagation: 0}\n"))


def test_a_file_named_through_an_anchor_is_found(tmp_path: Path) -> None:
    tasks = "check: {tasks: [&one {data: t.jsonl}, *one]}\n"
    recipe = load_recipe(written(tmp_path, MINIMAL + tasks))
    assert [task.data for task in recipe.check.tasks] == [str(tmp_path / "t.jsonl")] * 2


def test_nested_anchors_do_not_unfold(tmp_path: Path) -> None:
    levels = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12))
    with pytest.raises(RecipeError, match="unknown key 'a0'") as caught:
        load_recipe(written(tmp_path, f"version: 1\na0: &a0 [x]\n{levels}rules: [{{method: {{kind: *a11}}}}, *a11]\n"))
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "a: [",
        "",
        "a: *b",
        "\ttab: 1",
        "1: 2",
        "description: 2001-99-99",
        "description: !!timestamp soon",
        "description: !!bool perhaps",
        "description: !!int ''",
        f"description: {'1' * 5000}",
        "description: !!python/object/apply:os.getcwd []",
    ],
    ids=lambda text: text[:40],
)
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
    with pytest.raises(RecipeError, match=re.escape(repr(text))):
        parse_override(text)


@pytest.mark.parametrize("key", ["rules.9.match", "rules.x", "version.a.b"])
def test_overrides_of_places_that_do_not_exist(key: str) -> None:
    with pytest.raises(RecipeError, match=f"the override of {key}") as caught:
        load_recipe("int8-rtn", {key: 1})
    assert "--" not in str(caught.value), "the library knows no flags"


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_can_be_named(kind: str) -> None:
    method = load_recipe("int8-rtn", {"rules.0.method": {"kind": kind}}).rules[0].method
    assert method == METHODS[kind]()


def test_a_key_of_another_method_is_not_suggested_to_itself() -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'rules\.0\.method\.coordinate_descent'") as refused:
        load_recipe("int8-rtn", {"rules.0.method.coordinate_descent": 1})
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("int4-g128-gtpq", "did you mean int4-g128-gptq?"),
        ("int8_rtn", "did you mean int8-rtn?"),
        ("my.yml", "did you mean {directory}/my.yaml?"),
        ("model", "{directory}/model is a directory: were recipe and model swapped?"),
    ],
)
def test_a_recipe_nearly_right_is_suggested(
    given: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.yaml").write_text("version: 1\n")
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    name = given if given.startswith("int") else str(tmp_path / given)
    with pytest.raises(RecipeError) as caught:
        load_recipe(name)
    assert caught.value.hint == meant.format(directory=tmp_path)
    if meant.startswith("did you mean"):
        load_recipe(str(caught.value.hint).removeprefix("did you mean ").removesuffix("?"))


def test_a_recipe_like_no_other_is_not_guessed() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("zzz")
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("check.limits.accuracy_drop=5%", "a share of 5 % is written 0.05"),
        ("check.limits.accuracy_drop={value: '2.5 %'}", "a share of 2.5 % is written 0.025"),
        ("check.limits.perplexity_ratio=5%", "a ratio of 5 % more is written 1.05"),
        ("check.limits.perplexity_ratio=105%", "a ratio of 105 % is written 1.05"),
        ("train.test=20%", "a share of 20 % is written 0.2"),
        ("check.tasks=[{data: a.csv, labels: {good: yes}}]", "put the text in quotes"),
        ("check.tasks=[{data: a.csv, name: 1}]", "put the text in quotes"),
    ],
)
def test_what_is_written_otherwise_in_yaml_is_told(text: str, hint: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(None, dict([parse_override(text)]))
    assert hint in str(error.value.hint)


def test_a_share_given_as_a_percentage_is_told() -> None:
    with pytest.raises(RecipeError, match=r"between 0 and 1; 80 % is 0\.8"):
        load_recipe(None, {"check.limits.accuracy": 80})


def test_a_number_in_quotes_is_a_limit() -> None:
    limit = load_recipe(None, dict([parse_override("check.limits.accuracy_drop='0.05'")])).check.limits.accuracy_drop
    assert limit is not None
    assert limit.value == 0.05


def test_labels_are_what_is_written_whatever_yaml_makes_of_such_words() -> None:
    key, value = parse_override("check.tasks=[{data: a.csv, labels: {no: bad, yes: good, 1: one, 1.0: same, ~: none}}]")
    (task,) = load_recipe(None, {key: value}).check.tasks
    assert task.labels == {"no": "bad", "yes": "good", "1": "one", "1.0": "same", "~": "none"}
    with pytest.raises(RecipeError, match="given twice"):
        parse_override("check.tasks=[{labels: {1: a, '1': b}}]")
