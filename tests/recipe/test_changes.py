from glmquant.recipe.changes import named
from glmquant.recipe.load import load_recipe


def said(name: str | None, **overrides: object) -> tuple[str | None, tuple[str, ...]]:
    recipe = load_recipe(name, {key.replace("__", "."): value for key, value in overrides.items()})
    return named(recipe.identity() | recipe.model_dump(mode="json", include={"export", "check"}))


def test_a_packaged_recipe_is_known_by_its_name() -> None:
    assert said("demo") == ("demo", ())
    assert said("int4-auto-4.25") == ("int4-auto-4.25", ())


def test_each_key_that_differs_is_named_without_directories() -> None:
    name, changes = said("demo", calibration__data=["/home/me/zh.txt"], rules__1__spec__bits=2, check__seq_len=64)
    assert name == "demo"
    assert changes == ('calibration.data=["zh.txt"]', "rules.1.spec.bits=2", "check.seq_len=64")


def test_rules_laid_over_a_recipe_do_not_pass_for_it() -> None:
    _, changes = said("int4-g128-rtn", rules=[{"match": "*", "spec": {"bits": 2, "group_size": 32}}])
    assert any(change.startswith("rules") for change in changes)


def test_ones_own_recipe_is_told_by_its_keys() -> None:
    name, changes = said(None, description="mine", check__limits={"mean_kl": 1}, export__kv_cache="int8")
    assert (name, changes) == (None, ("export.kv_cache=int8",))
