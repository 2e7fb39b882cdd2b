"""Rules resolved for one model: which group is quantized how."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from glmquant.core.spec import QuantSpec
from glmquant.errors import RecipeError
from glmquant.glm.config import LinearGroup
from glmquant.methods import Method
from glmquant.recipe.schema import Rule


@dataclass(frozen=True)
class GroupPlan:
    """What happens to one linear group: kept float when ``spec`` is None.

    ``alternatives`` are what allocating may choose instead of ``spec``.
    """

    spec: QuantSpec | None = None
    method: Method | None = None
    alternatives: tuple[QuantSpec, ...] = ()

    @property
    def needs_hessian(self) -> bool:
        return self.method is not None and self.method.needs_hessian

    @property
    def choices(self) -> tuple[QuantSpec, ...]:
        """Every spec that allocating may choose, its own among them; none where there is no choice."""
        if self.spec is None or not self.alternatives:
            return ()
        return tuple(dict.fromkeys((self.spec, *self.alternatives)))


def resolve_rules(rules: Sequence[Rule], groups: Sequence[LinearGroup]) -> dict[str, GroupPlan]:
    """A plan for every group by name. The first rule that matches a group wins; a group without a rule is kept float.

    Raises:
        RecipeError: a rule that matches no group, or only groups that rules above it took.
    """
    plans: dict[str, GroupPlan] = {}
    for number, rule in enumerate(rules):
        matched = [group.name for group in groups if fnmatchcase(group.name, rule.match)]
        free = [name for name in matched if name not in plans]
        if not free:
            why = "only linears that rules above it match" if matched else "no linear"
            raise RecipeError(
                f"the rule {rule.match!r} matches {why}",
                where=f"rules.{number}.match",
                expected="a glob over names such as " + ", ".join(_examples(groups)),
            )
        plan = GroupPlan() if rule.keep else GroupPlan(rule.spec, rule.method, rule.alternatives)
        plans.update(dict.fromkeys(free, plan))
    return {group.name: plans.get(group.name, GroupPlan()) for group in groups}


def _examples(groups: Sequence[LinearGroup]) -> list[str]:
    return [group.name for group in groups[:4]] + [groups[-1].name]
