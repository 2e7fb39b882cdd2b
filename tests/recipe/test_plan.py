from dataclasses import replace

import pytest

from glmquant.core.spec import QuantSpec
from glmquant.errors import RecipeError
from glmquant.methods import Gptq, Rtn
from glmquant.recipe.plan import GroupPlan, Plan, make_plan
from glmquant.recipe.schema import Recipe, Rule
from tests.support.checkpoints import tiny_config

INT4, INT8 = QuantSpec(4, 32), QuantSpec(8, 32)


def plan_of(*rules: Rule, labels: tuple[str, ...] = (), **sections: object) -> Plan:
    recipe = Recipe(version=1, rules=rules, **sections)  # type: ignore[arg-type]
    return make_plan(recipe, replace(tiny_config(), labels=labels))


def test_the_first_match_wins() -> None:
    rules = [
        Rule(match="*.down_proj", spec=INT8, method=Rtn()),
        Rule(match="layers.*", spec=INT4, method=Gptq()),
    ]
    plans = plan_of(*rules)
    assert plans["layers.1.mlp.down_proj"] == GroupPlan(INT8, Rtn())
    assert plans["layers.0.self_attn.qkv_proj"] == GroupPlan(INT4, Gptq())
    assert plans["lm_head"] == GroupPlan()


def test_a_rule_may_keep() -> None:
    plans = plan_of(Rule(match="layers.0.*", keep=True), Rule(match="*", spec=INT4))
    assert plans["layers.0.mlp.down_proj"].spec is None
    assert plans["layers.1.mlp.down_proj"].spec == INT4


@pytest.mark.parametrize(
    "rules", [[Rule(match="layer.*", spec=INT4)], [Rule(match="*", spec=INT4), Rule(match="lm_head", spec=INT8)]]
)
def test_a_rule_without_effect_is_an_error(rules: list[Rule]) -> None:
    with pytest.raises(RecipeError, match=r"rules\.\d\.match"):
        plan_of(*rules)


def test_a_plan_says_what_the_recipe_will_need() -> None:
    rounded = plan_of(Rule(match="*", spec=INT4))
    fitted = plan_of(Rule(match="layers.*", spec=INT4, method=Gptq()), fit={"error_propagation": 0.5})
    allocated = plan_of(Rule(match="layers.*", spec=INT4, alternatives=(INT8,)), allocate={"average_bits": 6})
    cached = plan_of(Rule(match="*", spec=INT4), export={"kv_cache": "int8"})
    assert [plan.needs_samples for plan in (rounded, fitted, allocated, cached)] == [False, True, True, False]
    assert [plan.needs_ranges for plan in (rounded, fitted, allocated, cached)] == [False, False, False, True]
    assert [plan.num_streams for plan in (rounded, fitted)] == [1, 2]
    assert fitted.first_fitted == "layers.0.self_attn.qkv_proj"


def test_a_plan_has_every_group_of_the_model_in_the_order_of_data() -> None:
    plan = plan_of(Rule(match="*", spec=INT4))
    assert [group.within_layer for group in plan.block_groups(1)] == [
        "self_attn.qkv_proj",
        "self_attn.o_proj",
        "mlp.gate_up_proj",
        "mlp.down_proj",
    ]
    assert list(plan.specs) == [group.name for group in plan.groups]
    assert list(plan.specs)[-1] == "lm_head"
    assert "lm_head" not in plan_of(Rule(match="*", spec=INT4), labels=("a", "b")).specs
