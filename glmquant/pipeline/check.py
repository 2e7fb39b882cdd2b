"""A bundle measured against its baseline, and the report written."""

from pathlib import Path

import torch

from glmquant.evaluation.bundle import check_bundle
from glmquant.evaluation.regression import with_regression
from glmquant.evaluation.results import AccuracyReport
from glmquant.evaluation.stored_baseline import StoredBaseline
from glmquant.progress import Progress
from glmquant.recipe.check_options import CheckOptions
from glmquant.reports.write import write_report
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.output import output_of_first
from glmquant.streaming.memory import forward_bytes
from glmquant.streaming.resources import Resources


def check_directory(
    bundle: Path,
    baseline: Checkpoint | StoredBaseline,
    options: CheckOptions,
    *,
    description: str | None,
    against: AccuracyReport | None,
    cache: Path | None,
    out: Path | None,
    resources: Resources,
    progress: Progress,
    save_baseline: Path | None = None,
) -> AccuracyReport:
    """Measures the bundle, and writes the report to ``out`` if there is one; see :func:`glmquant.api.check`."""
    store = resources.store(forward_bytes(baseline.config, torch.float32))

    def measured() -> AccuracyReport:
        with resources.in_use():
            report = check_bundle(
                bundle,
                baseline,
                options,
                recipe=description,
                cache=cache,
                store=store,
                progress=progress,
                against=against,
                save_baseline=save_baseline,
                ranks=resources.ranks,
            )
        return report if against is None else with_regression(report, against, options.against)

    if out is None:
        return measured()
    with output_of_first(out, resources.ranks) as partial:
        report = measured()
        if partial is not None:
            write_report(report, partial, () if against is None else (against,))
    return report
