"""All stages in one directory, each kept as it is finished."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from glmquant.core.matmul import dtype_for
from glmquant.core.ranks import Ranks
from glmquant.data.calibration import CalibrationSet, KeyValueRange
from glmquant.data.labeled import LabeledSet
from glmquant.errors import CheckError, GlmQuantError, OutputError
from glmquant.evaluation.baseline_cache import require_writable_cache
from glmquant.evaluation.bundle import with_files
from glmquant.evaluation.classifier import read_classifier_tasks
from glmquant.evaluation.evaluate import read_material
from glmquant.evaluation.regression import require_pairable
from glmquant.evaluation.results import AccuracyReport
from glmquant.glm.config import GlmConfig
from glmquant.onnx_export.feasible import require_exportable
from glmquant.onnx_export.save import positions
from glmquant.pipeline.check import card_of, measured
from glmquant.pipeline.export import export_directory
from glmquant.pipeline.speed import measure_apart
from glmquant.pipeline.stage_keys import check_key, run_key, stage_keys
from glmquant.pipeline.steps import CALIBRATE, CHECK, EXPORT, QUANTIZE, TRAIN, announced, steps_of_run
from glmquant.progress import Progress, Steps
from glmquant.quantization.calibrate import calibrate, sample_texts
from glmquant.quantization.directory import quantize_directory, take_up
from glmquant.quantization.memory import quantize_bytes
from glmquant.quantization.summary import stored_bytes, summarize
from glmquant.recipe.check_options import CheckOptions
from glmquant.recipe.plan import Plan, make_plan
from glmquant.recipe.schema import Recipe
from glmquant.reports.read import read_report
from glmquant.reports.write import write_report
from glmquant.store.calibration import read_calibration, write_calibration
from glmquant.store.card_file import put_card
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.circumstances import Circumstances, circumstances
from glmquant.store.output import is_finished, output_of_all, output_of_first, require_free, require_room
from glmquant.store.run_record import RUN, RunRecord, read_run_record, require_recorded, write_run_record
from glmquant.store.verify import verify
from glmquant.streaming.memory import forward_bytes
from glmquant.streaming.resources import Resources
from glmquant.train.directory import TEST_FILE, examples_to_train_on, train_for_run

log = logging.getLogger("glmquant")
BUNDLE, REPORT = "onnx/model.onnx", "report/report.json"
STAGES: Final = ("classifier", "quantized", "calibration", "onnx", "report")
PACKAGED_TEXT = ("glmquant:held-out-en.txt", "glmquant:held-out-zh.txt")


def run_directory(
    checkpoint: Checkpoint,
    recipe: Recipe,
    out: Path,
    resources: Resources,
    against: AccuracyReport | None,
    progress: Progress,
    force: bool = False,
    cache: Path | None = None,
) -> AccuracyReport:
    """All stages; see :func:`glmquant.api.run`. What would stop a later one stops the run before the first.

    Args:
        cache: directory where the check keeps what the float checkpoint says, for other runs on the same data.
    """
    if force:
        _require_replaceable(out, checkpoint.path)
    elif read_run_record(out) is None:
        require_free(out)
    if cache is not None:
        require_writable_cache(cache)
    labeled, published = examples_to_train_on(checkpoint, recipe), checkpoint
    config = checkpoint.config if labeled is None else replace(checkpoint.config, labels=labeled.labels)
    plan = make_plan(recipe, config)
    require_exportable(config, recipe.export, plan.possible_specs)
    samples = sample_texts(checkpoint, recipe.calibration) if plan.needs_samples or plan.needs_ranges else None
    options = with_files(_check_options(checkpoint, recipe, labeled), (), None)
    data = _read_check_data(checkpoint, config, recipe, options, against, trains=labeled is not None)
    for needed in _needs(plan, resources):
        resources.store(needed)
    keys = stage_keys(checkpoint, plan, samples, labeled, check_key(options, data, against), resources)
    record = RunRecord(keys["onnx"], keys["report"])
    ranks = resources.ranks
    ranks.require_same(lambda: {"what is run": keys["report"]})
    if not force and (earlier := ranks.from_first(lambda: _finished(out, record))) is not None:
        return earlier
    stored = stored_bytes(summarize(checkpoint, plan), plan)
    require_room(out, 2 * stored)  # quantized, and in the bundle
    with output_of_all(out, ranks, resume_key=run_key(checkpoint), stages=keys, replace=force) as partial:
        todo = ranks.from_first(
            lambda: steps_of_run(partial, checkpoint, plan, stored, resources, trains=labeled is not None)
        )
        steps = announced(todo, progress)
        if labeled is not None:
            steps.begin(TRAIN)
            with ranks.first():
                if ranks.is_first:
                    _is_kept(partial / "classifier", verify)
                checkpoint, options = train_for_run(checkpoint, labeled, recipe, options, partial, resources, progress)
        steps.begin(QUANTIZE)
        quantized = _quantized(checkpoint, plan, samples, partial / "quantized", resources, progress)
        steps.begin(CALIBRATE)
        ranges = _ranges(checkpoint, plan, samples, partial / "calibration", resources, progress)
        steps.begin(EXPORT)
        with ranks.first():
            if ranks.is_first and not _is_kept(partial / "onnx", verify):
                export_directory(quantized, plan, ranges, partial / "onnx", progress)
        steps.begin(CHECK)

        def check() -> AccuracyReport:
            return measured(
                partial / "onnx",
                checkpoint,
                options,
                recipe=recipe,
                against=against,
                cache=cache,
                resources=resources,
                progress=progress,
            )

        checked, made = _report(partial, check, against, steps, ranks)
        if ranks.is_first:
            put_card(partial / "onnx", card_of(checked, partial / "onnx", published))
            write_run_record(replace(record, made=made), partial, "onnx")
    return checked


def _report(
    partial: Path,
    check: Callable[[], AccuracyReport],
    against: AccuracyReport | None,
    steps: Steps,
    ranks: Ranks,
) -> tuple[AccuracyReport, Circumstances | None]:
    """What the check says, which the first rank writes down with the circumstances, unless an earlier try did."""
    report = partial / "report"
    recorded = ranks.from_first(lambda: read_run_record(partial) if _is_kept(report, require_recorded) else None)
    if recorded is not None:
        return read_report(report), recorded.made
    checked, made = check(), None
    with output_of_first(report, ranks) as unfinished:
        if unfinished is not None:
            made = circumstances(steps.seconds, measure_apart(partial / "onnx"))
            write_report(checked, unfinished, () if against is None else (against,), made)
    return checked, made


def _is_kept(stage: Path, require: Callable[[Path], object]) -> bool:
    """Whether an unfinished run finished a stage whose files are still what it wrote; else it is to be done again, and
    nothing of it is left."""
    if not is_finished(stage):
        return False
    try:
        require(stage)
    except GlmQuantError as error:
        log.warning("%s is no longer what the unfinished run wrote, and is made again: %s", stage.name, error.what)
        shutil.rmtree(stage)
        return False
    return True


def _finished(out: Path, record: RunRecord) -> AccuracyReport | None:
    """The report of a finished run with the same inputs; None where nothing is in the way."""
    earlier = read_run_record(out) if is_finished(out) else None
    if earlier is None:
        require_free(out)
        return None
    if earlier.inputs != record.inputs:
        raise OutputError(
            "the output directory holds a finished run with other inputs",
            where=out,
            expected="an empty directory, or the same run",
            hint="choose another directory, or give `force` to start anew",
        )
    if earlier != record:
        raise OutputError(
            "the output directory holds a finished run with other texts, tasks or limits to check by",
            where=out,
            expected="an empty directory, or the same run",
            hint=f"`check` {out / 'onnx'} with these judges the same bundle; `force` makes all anew",
        )
    _require_whole(out, earlier)
    if lost := [name for name in (BUNDLE, REPORT) if not (out / name).is_file()]:
        raise OutputError(
            f"the finished run lacks {lost[0]}",
            where=out,
            expected="all that it wrote",
            hint="choose another directory, or give `force` to start anew",
        )
    log.info("%s holds this very run, finished earlier: nothing is done again", out)
    return read_report(out / "report")


def _require_whole(out: Path, earlier: RunRecord) -> None:
    """Raises OutputError for a bundle whose files are not as long as they were written."""
    for name, size in earlier.files.items():
        path = out / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise OutputError(
                f"the finished run lacks {name}" if found is None else f"{name} of the finished run was changed",
                where=out,
                expected=f"{name} with the {size:,} bytes that it was written with",
                hint="choose another directory, or give `force` to start anew",
            )


def _require_replaceable(out: Path, model: Path) -> None:
    """Only what a run wrote is ever replaced, and never what it reads."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    strangers = [out.name] if not out.is_dir() or read_run_record(out) is None else _others(out)
    if strangers or model.resolve().is_relative_to(out.resolve()):
        raise OutputError(
            f"{strangers[0]} is no part of a finished run" if strangers else "the model lies in the output directory",
            where=out,
            expected="a directory that `run` wrote, and nothing else in it",
            hint="choose another directory",
        )


def _others(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.name not in (*STAGES, RUN, TEST_FILE))


def _read_check_data(
    checkpoint: Checkpoint,
    config: GlmConfig,
    recipe: Recipe,
    options: CheckOptions,
    against: AccuracyReport | None,
    *,
    trains: bool,
) -> list[str]:
    """Opens all that the check will read, and hashes it; where a classifier is trained without a test set of its own,
    there is nothing to read yet.

    Raises:
        DataError, CheckError: as the check would raise them at the end of the run.
    """
    length = positions(config, recipe.export)
    if not config.num_labels:
        material = read_material(checkpoint.tokenizer, options, min(length, config.max_position_embeddings))
        windows, digests, truths = material.window_names, material.digests, material.truths
        hashes = [text.sha256 for text in material.texts]
    elif options.tasks or not trains:
        tasks = read_classifier_tasks(options, config.labels, checkpoint.tokenizer, length)
        windows, digests, truths, hashes = [], [], [task.truth for task in tasks], []
    elif options.text:
        raise CheckError(
            "a classifier is checked on labeled texts only",
            where="check.text",
            expected="check.tasks, or none: then examples of train.data are held out",
            hint="leave check.text out",
        )
    else:
        return []
    if against is not None:
        require_pairable(against, windows, digests, truths)
    return [*hashes, *(truth.sha256 for truth in truths)]


def _check_options(checkpoint: Checkpoint, recipe: Recipe, labeled: LabeledSet | None) -> CheckOptions:
    options = recipe.check
    if checkpoint.config.num_labels and not options.tasks and labeled is None:
        raise CheckError(
            "the recipe names no labeled texts to check the classifier on",
            where="check.tasks",
            hint="give some, for example check.tasks=[{data: test.jsonl}]",
        )
    if options.text or options.tasks or labeled:
        return options
    log.info("the recipe names nothing to check on: using the packaged held-out text")
    return options.model_copy(update={"text": PACKAGED_TEXT})


def _needs(plan: Plan, resources: Resources) -> tuple[int, int]:
    """Bytes that quantizing and the check's float pass need."""
    dtype = dtype_for(plan.recipe.calibration.precision, resources.device)
    return quantize_bytes(plan, dtype), forward_bytes(plan.config, torch.float32)


def _quantized(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet | None,
    out: Path,
    resources: Resources,
    progress: Progress,
) -> Checkpoint:
    ranks = resources.ranks
    if ranks.from_first(lambda: _is_kept(out, verify)):
        with ranks.first():
            return take_up(out, plan, samples) if ranks.is_first else open_checkpoint(out)
    return quantize_directory(checkpoint, plan, samples, out, resources, progress)


def _ranges(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet | None,
    out: Path,
    resources: Resources,
    progress: Progress,
) -> Sequence[KeyValueRange] | None:
    if samples is None or not plan.needs_ranges:
        return None
    if resources.ranks.from_first(lambda: _is_kept(out, read_calibration)):
        return read_calibration(out).key_values
    with output_of_first(out, resources.ranks) as partial:
        calibration = calibrate(checkpoint, plan, samples, resources, out.parent, progress)
        if partial is not None:
            write_calibration(calibration, partial)
    return calibration.key_values
