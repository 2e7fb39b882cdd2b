"""Mixed precision under a budget: a multiple-choice knapsack over what groups cost at each precision."""

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from glmquant.core.device import CPU
from glmquant.core.files import write_atomically
from glmquant.core.ranks import ALONE, Ranks
from glmquant.core.spec import QuantSpec
from glmquant.core.untrusted import require_regular
from glmquant.data.calibration import CalibrationSet
from glmquant.errors import CalibrationError, CheckpointError, RecipeError
from glmquant.glm.groups import Unit
from glmquant.progress import Progress, silent
from glmquant.quantization.sensitivity import MEASURED_TOKENS, Sensitivities, measure_sensitivities
from glmquant.recipe.plan import Plan, make_plan
from glmquant.recipe.schema import Allocation, Recipe, Rule
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.sealed_json import read_sealed, sealed

FOUND: Final = "allocation.state"

log = logging.getLogger("glmquant")


def allocate(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet,
    progress: Progress = silent,
    *,
    device: torch.device = CPU,
    ranks: Ranks = ALONE,
) -> Plan:
    """The plan of the recipe with a rule for each linear group in place of ``allocate``.

    Args:
        device: what computes.
        ranks: who shares what is measured; the first one chooses.

    Raises:
        RecipeError: a budget that not even the smallest alternatives fit.
    """
    recipe = plan.recipe
    assert recipe.allocate is not None
    choices = {name: each.choices for name, each in plan.by_group.items() if each.alternatives}
    taking_part = [unit for unit in plan.units if unit.name in choices]
    tokens_SL = samples.tokens_SL[:, :MEASURED_TOKENS]
    tokens_SL = tokens_SL[: max(1, MEASURED_TOKENS // tokens_SL.shape[1])]
    most = budget_bytes(recipe.allocate, taking_part)
    require_budget(most, taking_part, choices)
    errors = measure_sensitivities(
        checkpoint, choices, tokens_SL, equalized=recipe.fit.equalize, device=device, progress=progress, ranks=ranks
    )
    chosen = ranks.from_first(lambda: choose(taking_part, errors, most))
    resolved = recipe.model_copy(update={"allocate": None, "rules": tuple(_rules(plan, chosen))})
    return make_plan(resolved, plan.config)


def allocated(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet | None,
    directory: Path,
    progress: Progress,
    *,
    device: torch.device = CPU,
    ranks: Ranks = ALONE,
) -> Plan:
    """The plan as :func:`allocate` gives it, or as it did in an unfinished run that left ``directory``, of which the
    first rank reads and writes.

    Raises:
        CalibrationError: there are no samples to measure on.
    """
    if plan.recipe.allocate is None:
        return plan
    if samples is None:
        raise CalibrationError(
            "an allocation is measured on calibration samples",
            where="allocate",
            hint="`calibrate` first, and give what it gives as `calibration`",
        )
    found = directory / FOUND
    kept = ranks.from_first(lambda: _kept(found))
    if kept is None:
        new = allocate(checkpoint, plan, samples, progress, device=device, ranks=ranks).recipe
        kept = ranks.from_first(lambda: _keep(found, new))
    return make_plan(plan.recipe.model_copy(update={"allocate": None, "rules": kept.rules}), plan.config)


def _keep(found: Path, recipe: Recipe) -> Recipe:
    """The recipe as an unfinished run that is taken up will read it."""
    with write_atomically(found) as unfinished:
        unfinished.write_bytes(sealed((recipe.model_dump_json(indent=1) + "\n").encode()))
    return Recipe.model_validate(read_sealed(found)[0])


def _kept(found: Path) -> Recipe | None:
    """What an unfinished run resolved; None where it did not, or that changed since."""
    if not os.path.lexists(found):
        return None
    require_regular(found)
    try:
        values, is_sealed = read_sealed(found)
    except CheckpointError as error:
        log.warning("the bits are allocated again: %s", error.what)
        return None
    return Recipe.model_validate(values) if is_sealed else None


def require_budget(most_bytes: float, units: Sequence[Unit], choices: Mapping[str, Collection[QuantSpec]]) -> None:
    """Raises RecipeError where the budget is less than the smallest choices take."""
    least = sum(min(unit.stored_bytes(spec) for spec in choices[unit.name]) for unit in units)
    if least > most_bytes:
        raise RecipeError(
            f"the budget is {most_bytes / 1e6:,.3f} MB, and the smallest alternatives take {least / 1e6:,.3f} MB",
            where="allocate",
            hint="raise the budget, or offer fewer bits",
        )


def budget_bytes(budget: Allocation, units: Sequence[Unit]) -> float:
    if budget.megabytes is not None:
        return budget.megabytes * 1e6
    assert budget.average_bits is not None
    return budget.average_bits / 8 * sum(unit.num_weights for unit in units)


def choose(units: Sequence[Unit], errors: Sensitivities, most_bytes: float) -> dict[str, QuantSpec]:
    """A spec for each unit, with the smallest sum of errors that ``most_bytes`` allow.

    Solved as an integer program by HiGHS.

    Raises:
        RecipeError: ``most_bytes`` is less than the smallest specs take.
    """
    require_budget(most_bytes, units, errors)
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and seldom needed

    options = [(number, spec) for number, unit in enumerate(units) for spec in errors[unit.name]]
    sizes = np.array([units[n].stored_bytes(spec) for n, spec in options], dtype=float)
    costs = np.array([errors[units[n].name][spec] for n, spec in options])
    owner = np.array([n for n, _ in options])
    each_once = LinearConstraint(np.equal.outer(np.arange(len(units)), owner).astype(float), 1, 1)
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
    return {units[n].name: spec for (n, spec), taken in zip(options, solved.x, strict=True) if taken > 0.5}


def _rules(plan: Plan, chosen: Mapping[str, QuantSpec]) -> Iterator[Rule]:
    for name, each in plan.by_group.items():
        if each.spec is None:
            yield Rule(match=name, keep=True)
        else:
            yield Rule(match=name, spec=chosen.get(name, each.spec), method=each.method)
