"""Mixed precision under a budget: a multiple-choice knapsack over what groups cost at each precision."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from glmquant.core.device import CPU
from glmquant.core.spec import QuantSpec
from glmquant.data.calibration import CalibrationSet
from glmquant.errors import CalibrationError, RecipeError
from glmquant.glm.config import LinearGroup, linear_groups
from glmquant.progress import Progress, silent
from glmquant.quantization.sensitivity import MEASURED_TOKENS, Sensitivities, measure_sensitivities
from glmquant.recipe.plan import GroupPlan, resolve_rules
from glmquant.recipe.schema import Allocation, Recipe, Rule
from glmquant.store.checkpoint import Checkpoint

FOUND: Final = "allocation.state"


def allocate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    samples: CalibrationSet,
    progress: Progress = silent,
    *,
    device: torch.device = CPU,
) -> Recipe:
    """The recipe with a rule for each linear group in place of ``allocate``.

    Args:
        device: what computes.

    Raises:
        RecipeError: a budget that not even the smallest alternatives fit, or ``lm_head`` among the choices.
    """
    budget = recipe.allocate
    assert budget is not None
    groups = linear_groups(checkpoint.config)
    plans = resolve_rules(recipe.rules, groups)
    choices = {name: plan.choices for name, plan in plans.items() if plan.alternatives}
    if "lm_head" in choices:
        raise RecipeError(
            "lm_head takes no part in an allocation",
            where="rules",
            hint="give it a rule of its own, without alternatives",
        )
    taking_part = [group for group in groups if group.name in choices]
    most = budget_bytes(budget, taking_part)
    tokens_SL = samples.tokens_SL[:, :MEASURED_TOKENS]
    tokens_SL = tokens_SL[: max(1, MEASURED_TOKENS // tokens_SL.shape[1])]
    errors = measure_sensitivities(
        checkpoint, choices, tokens_SL, evened=recipe.fit.equalize, device=device, progress=progress
    )
    chosen = choose(taking_part, errors, most)
    return recipe.model_copy(update={"allocate": None, "rules": tuple(_rules(plans, chosen))})


def allocated(
    checkpoint: Checkpoint,
    recipe: Recipe,
    samples: CalibrationSet | None,
    directory: Path,
    progress: Progress,
    *,
    device: torch.device = CPU,
) -> Recipe:
    """The recipe as :func:`allocate` gives it, or as it did in an unfinished run that left ``directory``.

    Raises:
        CalibrationError: there are no samples to measure on.
    """
    if recipe.allocate is None:
        return recipe
    if samples is None:
        raise CalibrationError(
            "an allocation is measured on calibration samples",
            where="allocate",
            hint="run `glmquant calibrate` first and give its output with --calibration",
        )
    found = directory / FOUND
    if not found.exists():
        resolved = allocate(checkpoint, recipe, samples, progress, device=device)
        unfinished = found.with_suffix(".unfinished")
        unfinished.write_text(resolved.model_dump_json(), encoding="utf-8")
        os.replace(unfinished, found)
    return Recipe.model_validate_json(found.read_text(encoding="utf-8"))


def budget_bytes(budget: Allocation, groups: Sequence[LinearGroup]) -> float:
    if budget.megabytes is not None:
        return budget.megabytes * 1e6
    assert budget.average_bits is not None
    return budget.average_bits / 8 * sum(group.rows * group.columns for group in groups)


def choose(groups: Sequence[LinearGroup], errors: Sensitivities, most_bytes: float) -> dict[str, QuantSpec]:
    """A spec for each group, with the smallest sum of errors that ``most_bytes`` allow.

    Solved as an integer program by HiGHS.

    Raises:
        RecipeError: ``most_bytes`` is less than the smallest specs take.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and seldom needed

    options = [(number, spec) for number, group in enumerate(groups) for spec in errors[group.name]]
    sizes = np.array([spec.stored_bytes(groups[n].rows, groups[n].columns) for n, spec in options], dtype=float)
    costs = np.array([errors[groups[n].name][spec] for n, spec in options])
    owner = np.array([n for n, _ in options])
    least = sum(sizes[owner == number].min() for number in range(len(groups)))
    if least > most_bytes:
        raise RecipeError(
            f"the budget is {most_bytes / 1e6:,.3f} MB, and the smallest alternatives take {least / 1e6:,.3f} MB",
            where="allocate",
            hint="raise the budget, or offer fewer bits",
        )
    each_once = LinearConstraint(np.equal.outer(np.arange(len(groups)), owner).astype(float), 1, 1)
    within = LinearConstraint(sizes / most_bytes, -np.inf, 1)
    whole = np.ones_like(owner)
    solved = milp(
        costs / costs.max(),
        constraints=[each_once, within],
        integrality=whole,
        bounds=Bounds(0, 1),
        options={"presolve": False},  # with it HiGHS 1.12 sometimes prints to stdout, where results go
    )
    assert solved.success, solved.message
    return {groups[n].name: spec for (n, spec), taken in zip(options, solved.x, strict=True) if taken > 0.5}


def _rules(plans: Mapping[str, GroupPlan], chosen: Mapping[str, QuantSpec]) -> list[Rule]:
    rules = []
    for name, plan in plans.items():
        if plan.spec is None:
            rules.append(Rule(match=name, keep=True))
        else:
            rules.append(Rule(match=name, spec=chosen.get(name, plan.spec), method=plan.method))
    return rules
