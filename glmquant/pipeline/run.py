"""All stages in one directory, each kept as it is finished."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from glmquant.core.matmul import dtype_for
from glmquant.data.calibration import CalibrationSet, KeyValueRange
from glmquant.data.labeled import LabeledSet
from glmquant.errors import CheckError
from glmquant.evaluation.bundle import with_files
from glmquant.evaluation.evaluate import read_material
from glmquant.evaluation.results import AccuracyReport
from glmquant.onnx_export.save import check_supported, positions
from glmquant.pipeline.check import check_directory
from glmquant.pipeline.export import export_directory
from glmquant.progress import Progress
from glmquant.quantization.calibrate import calibrate, sample_texts
from glmquant.quantization.directory import quantize_directory, resume_key
from glmquant.quantization.memory import quantize_bytes
from glmquant.recipe.check_options import CheckOptions
from glmquant.recipe.plan import Plan, make_plan
from glmquant.recipe.schema import Recipe
from glmquant.reports.read import read_report
from glmquant.store.calibration import read_calibration, write_calibration
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.output import is_finished, output_directory
from glmquant.streaming.memory import forward_bytes
from glmquant.streaming.resources import Resources
from glmquant.train.directory import examples_to_train_on, train_for_run

log = logging.getLogger("glmquant")
PACKAGED_TEXT = ("glmquant:held-out-en.txt", "glmquant:held-out-zh.txt")


def run_directory(
    checkpoint: Checkpoint,
    recipe: Recipe,
    out: Path,
    resources: Resources,
    against: AccuracyReport | None,
    progress: Progress,
) -> AccuracyReport:
    """All stages; see :func:`glmquant.api.run`. What would stop a later one stops the run before the first."""
    check_supported(checkpoint.config, recipe.export)
    labeled = examples_to_train_on(checkpoint, recipe)
    config = checkpoint.config if labeled is None else replace(checkpoint.config, labels=labeled.labels)
    plan = make_plan(recipe, config)
    samples = sample_texts(checkpoint, recipe.calibration) if plan.needs_samples or plan.needs_ranges else None
    options = _check_options(checkpoint, recipe, labeled)
    if not config.num_labels:
        context = min(positions(config, recipe.export), config.max_position_embeddings)
        read_material(checkpoint.tokenizer, with_files(options, (), None), context)
    for needed in _needs(plan, resources):
        resources.store(needed)
    key = _resume_key(checkpoint, plan, options, samples, labeled, resources)
    with output_directory(out, resume_key=key) as partial:
        if labeled is not None:
            checkpoint, options = train_for_run(checkpoint, labeled, recipe, options, partial, resources, progress)
        quantized = _quantized(checkpoint, plan, samples, partial / "quantized", resources, progress)
        ranges = _ranges(checkpoint, plan, samples, partial / "calibration", resources, progress)
        if not is_finished(partial / "onnx"):
            export_directory(quantized, plan, ranges, partial / "onnx", progress)
        if is_finished(partial / "report"):
            return read_report(partial / "report")
        return check_directory(
            partial / "onnx",
            checkpoint,
            with_files(options, (), None),
            description=recipe.description or None,
            against=against,
            cache=None,
            out=partial / "report",
            resources=resources,
            progress=progress,
        )


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


def _resume_key(
    checkpoint: Checkpoint,
    plan: Plan,
    options: CheckOptions,
    samples: CalibrationSet | None,
    labeled: LabeledSet | None,
    resources: Resources,
) -> str:
    whole = replace(plan, recipe=plan.recipe.model_copy(update={"check": options}))
    return resume_key(checkpoint, whole, samples, labeled, device=resources.device)


def _quantized(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet | None,
    out: Path,
    resources: Resources,
    progress: Progress,
) -> Checkpoint:
    if is_finished(out):
        return open_checkpoint(out)
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
    if is_finished(out):
        return read_calibration(out).key_values
    with output_directory(out) as partial:
        calibration = calibrate(checkpoint, plan, samples, resources, partial.parent, progress)
        write_calibration(calibration, partial)
    return calibration.key_values
