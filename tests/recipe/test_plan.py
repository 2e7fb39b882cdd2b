import pytest

from glmquant.core.spec import QuantSpec
from glmquant.errors import RecipeError
from glmquant.glm.config import LinearGroup
from glmquant.methods import Gptq, Rtn
from glmquant.recipe.plan import GroupPlan, resolve_rules
from glmquant.recipe.schema import Rule

GROUPS = [
    LinearGroup(name, (name,), (32,), 32)
    for name in ("layers.0.self_attn.qkv_proj", "layers.0.mlp.down_proj", "layers.1.mlp.down_proj", "lm_head")
]
INT4, INT8 = QuantSpec(4, 32), QuantSpec(8, 32)


def test_the_first_match_wins() -> None:
    rules = [
        Rule(match="*.down_proj", spec=INT8, method=Rtn()),
        Rule(match="layers.*", spec=INT4, method=Gptq()),
    ]
    plans = resolve_rules(rules, GROUPS)
    assert plans["layers.1.mlp.down_proj"] == GroupPlan(INT8, Rtn())
    assert plans["layers.0.self_attn.qkv_proj"] == GroupPlan(INT4, Gptq())
    assert plans["lm_head"] == GroupPlan()


def test_a_rule_may_keep() -> None:
    plans = resolve_rules([Rule(match="layers.0.*", keep=True), Rule(match="*", spec=INT4)], GROUPS)
    assert plans["layers.0.mlp.down_proj"].spec is None
    assert plans["layers.1.mlp.down_proj"].spec == INT4


@pytest.mark.parametrize(
    "rules", [[Rule(match="layer.*", spec=INT4)], [Rule(match="*", spec=INT4), Rule(match="lm_head", spec=INT8)]]
)
def test_a_rule_without_effect_is_an_error(rules: list[Rule]) -> None:
    with pytest.raises(RecipeError, match=r"rules\.\d\.match"):
        resolve_rules(rules, GROUPS)
