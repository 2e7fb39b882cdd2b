"""Spellings of 0.1, which work in 0.2 and say so; to delete with 0.3."""

import logging
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger("glmquant")

Model = Annotated[str | None, typer.Option("--model", "-m", hidden=True, help="Read the model from here, as in 0.1.")]
Report = Annotated[Path | None, typer.Option("--report", hidden=True, help="Write the report here, as in 0.1.")]


def model_and_recipe(model: str, recipe: str | None, old_model: str | None) -> tuple[str, str]:
    """``run``'s two: with ``--model``, its argument is the recipe."""
    if old_model is None:
        if recipe is None:
            raise typer.BadParameter("give --recipe; `glmquant recipes` lists those in the package")
        return model, recipe
    if recipe is not None:
        raise typer.BadParameter("--model is the old spelling of the argument, which is the recipe then; leave out one")
    _tell("run RECIPE --model MODEL", "run MODEL --recipe RECIPE")
    return old_model, model


def report_directory(out: Path | None, old_report: Path | None) -> Path | None:
    """Where ``check`` writes its report."""
    if old_report is None:
        return out
    if out is not None:
        raise typer.BadParameter("--report is the old spelling of --out; leave out one")
    _tell("check --report DIR", "check --out DIR")
    return old_report


def _tell(spelling: str, now: str) -> None:
    log.info("`glmquant %s` is the old spelling, which the next release takes no more; now it is `%s`", spelling, now)
