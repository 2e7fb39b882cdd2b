"""The recipe's schema: every key documented, methods of one's own, and what makes no sense refused."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError
from torch import Tensor

from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import LayerStats
from glmquant.errors import RecipeError
from glmquant.methods import METHODS, Gptq, Rtn
from glmquant.recipe.check_options import Limits, Task
from glmquant.recipe.load import load_recipe
from glmquant.recipe.method_options import method_from_dict, method_options, method_to_dict
from glmquant.recipe.packaged import packaged_recipes
from glmquant.recipe.reference import known_keys
from glmquant.recipe.schema import ExportOptions, Recipe, Rule
from glmquant.recipe.section import Section


@dataclass(frozen=True)
class Halved:
    """A user's own method: rounds to nearest, with an option that nobody documented."""

    strength: float
    steps: int = 3

    kind: ClassVar[str] = "halved"
    needs_hessian: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.strength > 1:
            raise RecipeError(f"strength is {self.strength}", expected="at most 1")

    def quantize(self, weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor:
        return Rtn().quantize(weight_NK, spec, stats)


@pytest.fixture
def own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "halved", Halved)


def rule(method: Any) -> dict[str, Any]:
    return {"rules": [{"match": "*", "spec": {"bits": 4}, "method": method}]}


def sections() -> list[type[Section]]:
    return sorted(Section.__subclasses__(), key=lambda section: section.__name__)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_key_is_described(section: type[Section]) -> None:
    assert section.__doc__
    short = {name: field.description for name, field in section.model_fields.items() if not field.description}
    assert short == {}


@pytest.mark.parametrize("kind", ["gptq", "rtn"])
def test_every_option_of_a_packaged_method_is_described(kind: str) -> None:
    options = type(method_options().validate_python({"kind": kind}))
    assert options.model_fields
    assert [name for name, field in options.model_fields.items() if not field.description] == []


@pytest.mark.usefixtures("own_method")
def test_a_method_of_ones_own_can_be_named() -> None:
    recipe = load_recipe(None, rule({"kind": "halved", "strength": 0.5}))
    assert recipe.rules[0].method == Halved(0.5)
    assert recipe.identity()["rules"][0]["method"] == {"kind": "halved", "strength": 0.5, "steps": 3}
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert "rules.*.method.strength" in known_keys()


@pytest.mark.usefixtures("own_method")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"rules\.0\.method\.strength is missing"),
        ({"strength": "much"}, r"rules\.0\.method\.strength is 'much'; expected a valid number"),
        ({"strength": 2}, r"rules\.0\.method: strength is 2\.0; expected at most 1"),
        (
            {"strength": 1, "step": 3},
            r"unknown key 'rules\.0\.method\.step'[\s\S]*did you mean rules\.0\.method\.steps",
        ),
    ],
)
def test_options_of_a_method_of_ones_own_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(None, rule({"kind": "halved", **options}))


@pytest.mark.usefixtures("own_method")
def test_a_method_taken_out_is_unknown_again() -> None:
    load_recipe(None, rule({"kind": "halved", "strength": 1}))
    del METHODS["halved"]
    with pytest.raises(RecipeError, match=r"unknown method kind 'halved'; expected one of gptq, rtn"):
        load_recipe(None, rule({"kind": "halved", "strength": 1}))


def test_a_method_may_be_given_as_itself() -> None:
    assert Rule(match="*", spec=QuantSpec(4, 32), method=Gptq(damping=0.5)).method == Gptq(damping=0.5)
    assert method_from_dict(method_to_dict(Gptq(act_order=False))) == Gptq(act_order=False)


def test_the_default_method_is_round_to_nearest() -> None:
    assert Rule(match="*", spec=QuantSpec(4, 32)).method == Rtn()


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("demo").fit.equalize = True


@pytest.mark.parametrize("name", packaged_recipes())
def test_a_recipe_survives_json(name: str) -> None:
    recipe = load_recipe(name)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_identity_has_what_decides_the_weights_and_no_paths() -> None:
    recipe = load_recipe("demo", {"calibration.data": ["/somewhere/else/text.txt"], "export.max_length": 64})
    identity = recipe.identity()
    assert identity["calibration"]["data"] == ["text.txt"]
    assert identity.keys() == {"version", "description", "model", "calibration", "rules", "allocate", "fit", "store"}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (ExportOptions, {"profile": "standard", "kv_cache": "int8"}, "needs `profile: ort`"),
        (ExportOptions, {"profile": "standard", "embedding": {"bits": 4}}, "embedding of 8 bits"),
        (ExportOptions, {"dynamic_int8": True, "dtype": "float16"}, "dynamic_int8 needs"),
        (Rule, {"match": "*", "keep": True, "alternatives": [{"bits": 4}]}, "no alternatives"),
        (Task, {"data": "x", "scoring": "letter"}, "scoring is for multiple_choice"),
        (Task, {"data": "x", "kind": "multiple_choice", "labels": {"a": "b"}}, "labels are for classification"),
        (Limits, {"accuracy": 2}, "accuracy is 2; it can only be between 0 and 1"),
        (Limits, {"mean_kl": True}, "mean_kl"),
    ],
)
def test_what_makes_no_sense_is_refused(section: type[Section], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section.model_validate(values)


def test_a_bare_number_is_a_limit() -> None:
    limits = Limits.model_validate({"mean_kl": 0.1, "accuracy_drop": {"value": 0.2, "on": "estimate"}})
    assert limits.mean_kl is not None
    assert limits.accuracy_drop is not None
    assert (limits.mean_kl.value, limits.mean_kl.on) == (0.1, "interval")
    assert (limits.accuracy_drop.value, limits.accuracy_drop.on) == (0.2, "estimate")


@pytest.mark.parametrize(
    "overrides",
    [
        {"check.against.perplexity_ratio": 0},
        {"check.against.perplexity_ratio": -1},
        {"train.seed": -1},
        {"train.seed": 10**23},
        {"calibration.data": ["a"], "calibration.weights": [float("inf")]},
        {"calibration.data": ["a"], "calibration.weights": [float("nan")]},
        {"calibration.data": ["a", "b"], "calibration.weights": [1e308, 1e308]},
    ],
    ids=str,
)
def test_numbers_that_no_later_stage_could_take_are_refused(overrides: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        load_recipe(None, overrides)
