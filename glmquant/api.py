"""The verbs: from a checkpoint to calibration, quantized checkpoint, ONNX bundle, report, text.

A verb imports what it alone needs when it is called: ONNX Runtime, onnx and scipy take longer to import than a small
model to quantize.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from glmquant import assets
from glmquant.core.device import CPU, device_named, memory_of
from glmquant.core.matmul import dtype_for
from glmquant.data.calibration import Calibration, CalibrationSet
from glmquant.data.labeled import read_labeled
from glmquant.errors import CheckError, OutputError
from glmquant.glm.config import linear_groups
from glmquant.glm.tokenizers.tokenizer import StreamDecoder, load_tokenizer
from glmquant.inputs import (
    bundle_path,
    check_options,
    file_names,
    open_model,
    require_own_tokens,
    resume_key,
    sample_texts,
    samples_of,
)
from glmquant.progress import Progress, silent
from glmquant.quantization import calibrate as calibration_pass
from glmquant.quantization import quantize as quantization
from glmquant.quantization import summary
from glmquant.quantization.memory import forward_bytes, quantize_bytes, room_within
from glmquant.quantization.on_the_fly import RoundedCheckpoint, rounds_on_export
from glmquant.quantization.rates import quantize_rate, rate
from glmquant.quantization.work import forward_work
from glmquant.recipe.load import load_recipe, packaged_recipes
from glmquant.recipe.plan import resolve_rules
from glmquant.recipe.schema import Recipe
from glmquant.runtime.sampling import GenerationOptions
from glmquant.store.artifact import copy_side_files
from glmquant.store.calibration import read_calibration, write_calibration
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.manifest import MANIFEST, manifest_bytes
from glmquant.store.output import is_finished, output_directory

if TYPE_CHECKING:
    from glmquant.evaluation.results import AccuracyReport
    from glmquant.onnx_export.bundle import OnnxBundle
    from glmquant.quantization.diagnosis import Comparison
    from glmquant.runtime.chat import Chat
    from glmquant.runtime.classify import Classification
    from glmquant.runtime.session import Provider
    from glmquant.train.report import TrainingReport

__all__ = [
    "GenerationOptions",
    "calibrate",
    "check",
    "classify",
    "compare",
    "draw",
    "export",
    "generate",
    "inspect",
    "load_recipe",
    "open_chat",
    "packaged_recipes",
    "quantize",
    "read_report",
    "run",
    "train_classifier",
]

log = logging.getLogger("glmquant")
PACKAGED_TEXT = ("glmquant:held-out-en.txt", "glmquant:held-out-zh.txt")


def inspect(
    model: str | Path,
    recipe: Recipe | None = None,
    *,
    predict: bool = False,
    memory_limit: int | None = None,
    device: str = "cpu",
) -> summary.ModelSummary:
    """What a checkpoint is, and what ``recipe`` would make of it; no weight is read.

    Args:
        predict: also measure this machine, to say what time, memory and disk the recipe will take.
        memory_limit, device: as in :func:`calibrate`, for the prediction.
    """
    checkpoint = open_model(model, recipe)
    found = summary.summarize(checkpoint, recipe)
    if recipe is None or not predict:
        return found
    from glmquant.quantization.forecast import forecast

    stored = summary.stored_bytes(found, recipe)
    where = device_named(device)
    with memory_of(where):
        return replace(found, forecast=forecast(checkpoint, recipe, stored, memory_limit, where))


def compare(first: str | Path, second: str | Path) -> Comparison:
    """Two quantizations of one model, group by group, from their ``glmquant.json``: what costs the second one most."""
    from glmquant.quantization.diagnosis import compare_checkpoints

    return compare_checkpoints(open_checkpoint(first), open_checkpoint(second))


def calibrate(
    model: str | Path,
    recipe: Recipe,
    *,
    text: Sequence[str | Path] | str | Path | None = None,
    out: str | Path,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> Calibration:
    """Samples text as the recipe says and records the ranges of the float model's activations on it.

    Args:
        text: files to use instead of the recipe's ``calibration.data``.
        out: directory to write.
        memory_limit: bytes the process may hold; activations that would exceed it lie on the disk. Default: three
            quarters of the machine's memory. It changes no result.
        device: what computes, ``cpu``, ``cuda`` or ``cuda:N``; activations stay in the processor's memory.
    """
    where = device_named(device)
    checkpoint = open_model(model, recipe)
    samples = sample_texts(checkpoint, recipe, file_names(text))
    return _calibrate(checkpoint, samples, recipe, Path(out), memory_limit, where, progress)


def quantize(
    model: str | Path,
    recipe: Recipe,
    calibration: Calibration | CalibrationSet | str | Path | None = None,
    *,
    out: str | Path,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> Checkpoint:
    """Quantizes a float checkpoint by the recipe's rules into a directory in GPTQ format.

    Args:
        calibration: what :func:`calibrate` gave, or where it wrote it; methods that need no data need none.
        memory_limit, device: as in :func:`calibrate`.
    """
    where = device_named(device)
    checkpoint = open_model(model, recipe)
    tokenizer = load_tokenizer(checkpoint.path, checkpoint.config)
    samples = samples_of(calibration)
    if samples is not None:
        require_own_tokens(samples, tokenizer, checkpoint)
    dtype = dtype_for(recipe.calibration.precision, where)
    needed = quantize_bytes(checkpoint.config, recipe, dtype)
    room = room_within(memory_limit, needed, Path(out).resolve().parent, device=where)
    key = resume_key(checkpoint, recipe, samples, device=where)
    with output_directory(Path(out), resume_key=key) as partial, memory_of(where):
        started = time.monotonic()
        done = quantization.quantize(checkpoint, recipe, samples, partial, progress, room=room, dtype=dtype)
        log.info(quantize_rate(checkpoint, recipe, samples, done, time.monotonic() - started))
        tokenizer.save(partial)
    return open_checkpoint(out)


def export(
    model: Checkpoint | str | Path,
    recipe: Recipe | None = None,
    calibration: Calibration | str | Path | None = None,
    *,
    out: str | Path,
    progress: Progress = silent,
) -> OnnxBundle:
    """Writes a checkpoint, float or quantized, as an ONNX bundle by the recipe's ``export`` section.

    What is not in GPTQ format is quantized on the way by the recipe's ``rules``, which may need no calibration samples
    then: no GPTQ directory lies in between, and the bundle is the same. So are rows that the publisher quantized.

    Args:
        calibration: what :func:`calibrate` gave, or where it wrote it; a quantized key/value cache needs its ranges.
    """
    from glmquant.onnx_export.classifier import export_classifier
    from glmquant.onnx_export.save import export_bundle

    recipe = recipe or load_recipe(None)
    checkpoint = model if isinstance(model, Checkpoint) else open_model(model, recipe)
    tokenizer = load_tokenizer(checkpoint.path, checkpoint.config)
    if isinstance(calibration, str | Path):
        calibration = read_calibration(Path(calibration))
    key_values = calibration.key_values if calibration is not None else None
    rounds = rounds_on_export(checkpoint, recipe)
    if rounds and checkpoint.is_quantized:
        log.info("the rows that the publisher quantized are quantized anew by the recipe's rules")
    source = RoundedCheckpoint(checkpoint, recipe) if rounds else checkpoint

    def tell(done: int, total: int) -> None:
        progress("exporting", done, total)

    with output_directory(Path(out)) as partial:
        if checkpoint.config.num_labels:
            bundle = export_classifier(source, recipe.export, partial, tokenizer=tokenizer, progress=tell)
        else:
            bundle = export_bundle(
                source, recipe.export, partial, key_values=key_values, tokenizer=tokenizer, progress=tell
            )
        copy_side_files(checkpoint.path, partial)
        manifest = source.manifest() if isinstance(source, RoundedCheckpoint) else checkpoint.manifest
        if manifest is not None:
            (partial / MANIFEST).write_bytes(manifest_bytes(manifest))
    return replace(bundle, path=Path(out))


def check(
    bundle: OnnxBundle | str | Path,
    *,
    baseline: str | Path,
    recipe: Recipe | None = None,
    text: Sequence[str | Path] | str | Path | None = None,
    tasks: Sequence[str | Path] | None = None,
    against: AccuracyReport | str | Path | None = None,
    cache: str | Path | None = None,
    out: str | Path | None = None,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> AccuracyReport:
    """Measures a bundle, as it ships, against the float checkpoint by the recipe's ``check`` section.

    Args:
        text: files to use instead of ``check.text``.
        tasks: labeled files to use instead of ``check.tasks``.
        against: the report of an earlier check on the same data; what is lost since then counts by ``check.against``.
        cache: directory where what the float checkpoint says is kept for the next check on the same data.
        out: directory to write ``report.json``, ``report.md``, ``report.html`` and ``junit.xml`` to; None writes
            nothing.
        memory_limit, device: as in :func:`calibrate`, for the float checkpoint's pass; the bundle runs in ONNX Runtime
            on the processor, as it ships.
    """
    from glmquant.evaluation.bundle import check_bundle
    from glmquant.evaluation.regression import with_regression
    from glmquant.report.write import write_report

    where = device_named(device)
    recipe = recipe or load_recipe(None)
    path = bundle_path(bundle)
    checkpoint = open_model(baseline, recipe)
    options = check_options(recipe.check, file_names(text), tasks)
    earlier = read_report(against) if isinstance(against, str | Path) else against
    kept = None if cache is None else Path(cache)

    room = room_within(memory_limit, forward_bytes(checkpoint.config, torch.float32), device=where)

    def measured() -> AccuracyReport:
        description = recipe.description or None
        with memory_of(where):
            report = check_bundle(
                path, checkpoint, options, recipe=description, cache=kept, room=room, progress=progress
            )
        return report if earlier is None else with_regression(report, earlier, options.against)

    if out is None:
        return measured()
    with output_directory(Path(out)) as partial:
        report = measured()
        write_report(report, partial, () if earlier is None else (earlier,))
    return report


def read_report(path: str | Path) -> AccuracyReport:
    """A report from its ``report.json``, or from the directory that holds it.

    Raises:
        CheckError: no such file, or no report that this release can read.
    """
    from glmquant.report.read import report_from_json

    file = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
    try:
        return report_from_json(file.read_text(encoding="utf-8"), file)
    except OSError as error:
        raise CheckError(
            f"cannot read the report: {error.strerror}", where=file, expected="a report.json that `check` wrote"
        ) from error
    except UnicodeDecodeError as error:
        raise CheckError(f"the report is not UTF-8: {error}", where=file) from None


def draw(reports: Sequence[str | Path], out: str | Path) -> None:
    """Writes the HTML page of the first report, with the others drawn beside it: quality against size.

    Bundles that share a name are told apart by the directories their reports lie in.
    """
    from glmquant.report.html import to_html
    from glmquant.report.write import named_apart

    first, *others = named_apart([(Path(path), read_report(path)) for path in reports])
    try:
        Path(out).write_text(to_html(first, others), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write there: {error.strerror}", where=out, fix="choose another --out") from error


def run(
    model: str | Path,
    recipe: Recipe,
    *,
    against: AccuracyReport | str | Path | None = None,
    out: str | Path,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> AccuracyReport:
    """Calibrate, quantize, export and check; ``out`` gets ``quantized/``, ``onnx/`` and ``report/``.

    With ``train.data`` a classifier is trained first: ``out`` gets ``classifier/`` too, and ``test.jsonl``, what it is
    checked on, where the recipe names no ``check.tasks``.

    What an earlier, unfinished run with the same inputs finished is not done again.

    Args:
        memory_limit, device: as in :func:`calibrate`.
    """
    from glmquant.onnx_export.save import check_supported
    from glmquant.train.directory import examples_to_train_on, train_for_run

    where = device_named(device)
    checkpoint = open_model(model, recipe)
    check_supported(checkpoint.config, recipe.export)
    labeled = examples_to_train_on(checkpoint, recipe)
    config = checkpoint.config if labeled is None else replace(checkpoint.config, labels=labeled.labels)
    plans = resolve_rules(recipe.rules, linear_groups(config))
    needs_ranges = recipe.export.kv_cache != "float"
    fitted = recipe.allocate is not None or any(plan.needs_hessian for plan in plans.values())
    samples = sample_texts(checkpoint, recipe, ()) if needs_ranges or fitted else None
    if checkpoint.config.num_labels and not recipe.check.tasks and labeled is None:
        raise CheckError(
            "the recipe names no labeled texts to check the classifier on",
            where="check.tasks",
            fix="give some, for example --set check.tasks='[{data: test.jsonl}]'",
        )
    if not (recipe.check.text or recipe.check.tasks or labeled):
        log.info("the recipe names nothing to check on: using the packaged held-out text")
        recipe = recipe.model_copy(update={"check": recipe.check.model_copy(update={"text": PACKAGED_TEXT})})
    for needed in _needs(checkpoint, recipe, where):  # what would stop a later stage stops the run here
        room_within(memory_limit, needed)
    key = resume_key(checkpoint, recipe, samples, labeled, device=where)
    with output_directory(Path(out), resume_key=key) as partial:
        if labeled is not None:
            if where != CPU:
                log.warning("training computes on the processor, not on %s", where)
            checkpoint, recipe = train_for_run(checkpoint, labeled, recipe, partial, progress)
        if not is_finished(partial / "quantized"):
            quantize(
                checkpoint.path,
                recipe,
                samples,
                out=partial / "quantized",
                memory_limit=memory_limit,
                device=device,
                progress=progress,
            )
        ranges = partial / "calibration" if needs_ranges else None
        if samples is not None and ranges is not None and not is_finished(ranges):
            _calibrate(checkpoint, samples, recipe, ranges, memory_limit, where, progress)
        if not is_finished(partial / "onnx"):
            export(partial / "quantized", recipe, ranges, out=partial / "onnx", progress=progress)
        if is_finished(partial / "report"):
            return read_report(partial / "report")
        return check(
            partial / "onnx",
            baseline=checkpoint.path,
            recipe=recipe,
            against=against,
            out=partial / "report",
            memory_limit=memory_limit,
            device=device,
            progress=progress,
        )


def open_chat(
    bundle: OnnxBundle | str | Path, *, options: GenerationOptions | None = None, provider: Provider = "cpu"
) -> Chat:
    """A conversation with the bundle: ``for piece in chat.say("你好")``."""
    from glmquant.runtime.chat import Chat
    from glmquant.runtime.model import OnnxModel
    from glmquant.runtime.tokenizer import load_bundle_tokenizer

    path = bundle_path(bundle)
    model = OnnxModel.open(path, provider=provider)
    return Chat(model, load_bundle_tokenizer(path), options or GenerationOptions())


def generate(
    bundle: OnnxBundle | str | Path,
    prompt: str,
    *,
    chat: bool = True,
    options: GenerationOptions | None = None,
    provider: Provider = "cpu",
) -> Iterator[str]:
    """The bundle's answer to a prompt, piece by piece as it is generated.

    Args:
        chat: put the prompt into the model's chat template; else continue it as text.
    """
    from glmquant.runtime.generate import generate as generate_ids
    from glmquant.runtime.model import OnnxModel
    from glmquant.runtime.text import stream_text
    from glmquant.runtime.tokenizer import load_bundle_tokenizer

    if chat:
        return open_chat(bundle, options=options, provider=provider).say(prompt)
    path = bundle_path(bundle)
    model, tokenizer = OnnxModel.open(path, provider=provider), load_bundle_tokenizer(path)
    prompt_ids = [*tokenizer.prefix_ids, *tokenizer.encode(prompt)]
    return stream_text(generate_ids(model, prompt_ids, options or GenerationOptions()), StreamDecoder(tokenizer))


def train_classifier(
    model: str | Path, data: str | Path, recipe: Recipe | None = None, *, out: str | Path, progress: Progress = silent
) -> TrainingReport:
    """Trains a classifier on labeled texts by the recipe's ``train`` section; ``out`` gets its checkpoint.

    An unfinished run with the same inputs is taken up.

    Args:
        data: JSONL or CSV with a ``text`` and a ``label`` in each record, or a directory with a ``LABEL.txt`` for each
            label, a text a line.
    """
    from glmquant.train.directory import train_directory

    recipe = recipe or load_recipe(None)
    labeled = read_labeled(Path(assets.resolve(str(data))))
    return train_directory(open_model(model, recipe), labeled, recipe.train, Path(out), progress)


def classify(
    bundle: OnnxBundle | str | Path, texts: Sequence[str], *, progress: Progress = silent
) -> list[Classification]:
    """Each text's label, with the probabilities of all, from a classifier's bundle; similar lengths are read together.

    A text longer than the bundle's ``max_length`` is read up to there, and its ``truncated`` says so.
    """
    from glmquant.runtime.classify import OnnxClassifier
    from glmquant.runtime.classify import classify as classify_texts
    from glmquant.runtime.tokenizer import load_bundle_tokenizer

    path = bundle_path(bundle)
    model = OnnxClassifier.open(path)
    return classify_texts(model, texts, load_bundle_tokenizer(path), progress)


def _calibrate(
    checkpoint: Checkpoint,
    samples: CalibrationSet,
    recipe: Recipe,
    out: Path,
    memory_limit: int | None,
    device: torch.device,
    progress: Progress,
) -> Calibration:
    dtype = dtype_for(recipe.calibration.precision, device)
    needed = forward_bytes(checkpoint.config, dtype)
    room = room_within(memory_limit, needed, out.resolve().parent, device=device)
    with output_directory(out) as partial, memory_of(device):
        started = time.monotonic()
        calibration = calibration_pass.calibrate(checkpoint, samples, progress, room=room, dtype=dtype)
        work = forward_work(checkpoint.config, checkpoint.config.num_hidden_layers, samples.tokens_SL.numel())
        log.info(rate("calibrated", samples, work, time.monotonic() - started))
        write_calibration(calibration, partial)
    return calibration


def _needs(checkpoint: Checkpoint, recipe: Recipe, device: torch.device) -> tuple[int, int]:
    """Bytes that quantizing and the check's float pass need."""
    dtype = dtype_for(recipe.calibration.precision, device)
    return quantize_bytes(checkpoint.config, recipe, dtype), forward_bytes(checkpoint.config, torch.float32)
