"""A bundle measured against its baseline, and what is written of that."""

import hashlib
import re
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Final

import torch

from glmquant.core.files import write_text
from glmquant.evaluation.bundle import check_bundle
from glmquant.evaluation.regression import with_regression
from glmquant.evaluation.results import AccuracyReport
from glmquant.evaluation.stored_baseline import StoredBaseline
from glmquant.pipeline.speed import measure_apart
from glmquant.progress import Progress
from glmquant.recipe.check_options import CheckOptions
from glmquant.recipe.schema import Recipe
from glmquant.reports.card import CardFacts, to_card
from glmquant.reports.write import write_report
from glmquant.runtime.session import GRAPH_FILE, is_classifier, multiplies_integers
from glmquant.store.artifact import license_files
from glmquant.store.base_card import CARD, BaseCard, read_base_card
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.circumstances import circumstances
from glmquant.store.inventory import sha256_of
from glmquant.store.manifest import MANIFEST, read_manifest
from glmquant.store.output import output_of_first
from glmquant.store.run_record import RunRecord, write_run_record
from glmquant.streaming.memory import forward_bytes
from glmquant.streaming.resources import Resources

REPO_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
STEP: Final = "check"


def check_directory(
    bundle: Path,
    baseline: Checkpoint | StoredBaseline,
    options: CheckOptions,
    *,
    recipe: Recipe,
    against: AccuracyReport | None,
    cache: Path | None,
    out: Path | None,
    resources: Resources,
    progress: Progress,
    save_baseline: Path | None = None,
) -> AccuracyReport:
    """Measures the bundle, and writes to ``out``, if there is one, the report, a model card and ``run.json``; see
    :func:`glmquant.api.check`."""

    with nullcontext() if out is None else output_of_first(out, resources.ranks) as partial:
        start = perf_counter()
        report = measured(
            bundle,
            baseline,
            options,
            recipe=recipe,
            against=against,
            cache=cache,
            resources=resources,
            progress=progress,
            save_baseline=save_baseline,
        )
        if partial is not None:
            made = circumstances({STEP: perf_counter() - start}, measure_apart(bundle))
            write_report(report, partial, () if against is None else (against,), made)
            write_text(partial / CARD, card_of(report, bundle, baseline))
            checked = hashlib.sha256(report.to_json().encode()).hexdigest()
            write_run_record(RunRecord(_identity(bundle), checked, made=made), partial, None)
    return report


def measured(
    bundle: Path,
    baseline: Checkpoint | StoredBaseline,
    options: CheckOptions,
    *,
    recipe: Recipe,
    against: AccuracyReport | None,
    cache: Path | None,
    resources: Resources,
    progress: Progress,
    save_baseline: Path | None = None,
) -> AccuracyReport:
    """The report, written nowhere."""
    store = resources.store(forward_bytes(baseline.config, torch.float32))
    with resources.in_use():
        report = check_bundle(
            bundle,
            baseline,
            options,
            recipe=recipe,
            cache=cache,
            store=store,
            progress=progress,
            against=against,
            save_baseline=save_baseline,
            ranks=resources.ranks,
        )
    return report if against is None else with_regression(report, against, options.against)


def card_of(report: AccuracyReport, bundle: Path, base: Checkpoint | StoredBaseline) -> str:
    """The bundle's model card; its base is the model whose license holds."""
    source = read_manifest(bundle / MANIFEST).source_name if (bundle / MANIFEST).is_file() else ""
    facts = CardFacts(
        base=read_base_card(base.path) if isinstance(base, Checkpoint) else BaseCard(),
        base_id=source if REPO_ID.fullmatch(source) else None,
        license_files=license_files(bundle),
        classifies=is_classifier(bundle),
        multiplies_integers=multiplies_integers(bundle),
    )
    return to_card(report, facts)


def _identity(bundle: Path) -> str:
    manifest = bundle / MANIFEST
    return sha256_of(manifest if manifest.is_file() else bundle / GRAPH_FILE)
