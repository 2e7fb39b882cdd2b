"""A recipe resolved against one model, once: which linear group is quantized how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from glmquant.core.spec import QuantSpec
from glmquant.errors import RecipeError
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.groups import Unit, linear_groups, units
from glmquant.methods import Method
from glmquant.methods.promise import require_kept
from glmquant.recipe.schema import Recipe, Rule


@dataclass(frozen=True)
class GroupPlan:
    """What happens to one linear group: kept float when ``spec`` is None.

    ``alternatives`` are what an allocation may choose instead of ``spec``.
    """

    spec: QuantSpec | None = None
    method: Method | None = None
    alternatives: tuple[QuantSpec, ...] = ()

    @property
    def needs_hessian(self) -> bool:
        return self.method is not None and self.method.needs_hessian

    @property
    def choices(self) -> tuple[QuantSpec, ...]:
        """Every spec that an allocation may choose, its own among them; none where there is no choice."""
        if self.spec is None or not self.alternatives:
            return ()
        return tuple(dict.fromkeys((self.spec, *self.alternatives)))


@dataclass(frozen=True)
class Plan:
    """A recipe resolved against a model.

    Attributes:
        groups: every linear group of the model, blocks first.
        by_group: what happens to each unit (:class:`glmquant.glm.groups.Unit`), by name.
    """

    recipe: Recipe
    config: GlmConfig
    groups: tuple[LinearGroup, ...]
    by_group: Mapping[str, GroupPlan]

    def __getitem__(self, group: str) -> GroupPlan:
        return self.by_group[group]

    @property
    def units(self) -> tuple[Unit, ...]:
        """What rules match, blocks first."""
        return units(self.groups)

    def block_groups(self, layer: int) -> tuple[LinearGroup, ...]:
        """The groups of one block."""
        return tuple(group for group in self.groups if group.name.startswith(f"layers.{layer}."))

    @property
    def specs(self) -> dict[str, QuantSpec | None]:
        return {name: plan.spec for name, plan in self.by_group.items()}

    @property
    def possible_specs(self) -> dict[str, tuple[QuantSpec, ...]]:
        """Every spec that a group may come to have; none where it is kept float."""
        return {
            name: plan.choices or (() if plan.spec is None else (plan.spec,)) for name, plan in self.by_group.items()
        }

    @property
    def first_fitted(self) -> str | None:
        """The first group whose method needs calibration samples."""
        return next((name for name, plan in self.by_group.items() if plan.needs_hessian), None)

    @property
    def needs_samples(self) -> bool:
        """A method or an allocation is fitted to calibration samples."""
        return self.recipe.allocate is not None or self.first_fitted is not None

    @property
    def needs_ranges(self) -> bool:
        """The bundle's KV cache is quantized by ranges of keys and values."""
        return self.recipe.export.kv_cache != "float"

    @property
    def num_streams(self) -> int:
        """Streams of activations: the quantized model's, and the float model's where errors are propagated."""
        return 2 if self.recipe.fit.error_propagation else 1


def make_plan(recipe: Recipe, config: GlmConfig) -> Plan:
    """Resolves the recipe's rules against the model's linear groups.

    Raises:
        RecipeError: a rule that matches no group, or only groups that rules above it took; or ``lm_head`` among an
            allocation's choices.
        QuantizationError: a method of the user's own that does not keep its promises
            (:func:`glmquant.methods.promise.require_kept`).
    """
    groups = linear_groups(config)
    plan = Plan(recipe, config, groups, _resolve(recipe.rules, groups))
    if recipe.allocate is not None and "lm_head" in plan.by_group and plan["lm_head"].alternatives:
        raise RecipeError(
            "lm_head takes no part in an allocation",
            where="rules",
            hint="give it a rule of its own above the others, without alternatives",
        )
    _require_methods_to_keep_their_promises(plan)
    return plan


def _require_methods_to_keep_their_promises(plan: Plan) -> None:
    tried: list[tuple[Method, QuantSpec]] = []
    for name, specs in plan.possible_specs.items():
        method = plan[name].method
        for spec in specs:
            if method is not None and (method, spec) not in tried:
                require_kept(method, spec)
                tried.append((method, spec))


def _resolve(rules: Sequence[Rule], groups: Sequence[LinearGroup]) -> dict[str, GroupPlan]:
    """The first rule that matches a group wins; a group without a rule is kept float."""
    names = [unit.name for unit in units(groups)]
    plans: dict[str, GroupPlan] = {}
    for number, rule in enumerate(rules):
        matched = [name for name in names if fnmatchcase(name, rule.match)]
        free = [name for name in matched if name not in plans]
        if not free:
            why = "only linear layers that rules above it match" if matched else "no linear layer"
            raise RecipeError(
                f"the rule {rule.match!r} matches {why}",
                where=f"rules.{number}.match",
                expected="a glob over names such as " + ", ".join(_examples(names)),
            )
        plan = GroupPlan() if rule.keep else GroupPlan(rule.spec, rule.method, rule.alternatives)
        plans.update(dict.fromkeys(free, plan))
    return {name: plans.get(name, GroupPlan()) for name in names}


def _examples(names: Sequence[str]) -> list[str]:
    return [*names[:4], names[-1]]
