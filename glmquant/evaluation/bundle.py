"""The check of a bundle on disk, language model or classifier, against the checkpoint it comes from."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

from glmquant import assets
from glmquant.core.arithmetic import arithmetic
from glmquant.core.ranks import ALONE, Ranks
from glmquant.data.sequences import Ids
from glmquant.evaluation.answers import drafter, greedy_answers
from glmquant.evaluation.baseline_cache import AnswerStore, BaselineCache, require_writable_cache
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.classifier import evaluate_classifier
from glmquant.evaluation.comparable import origin_notes, require_same_model
from glmquant.evaluation.evaluate import evaluate
from glmquant.evaluation.onnx_source import OnnxSource
from glmquant.evaluation.results import AccuracyReport, LibraryVersion, ModelFacts, PromptAnswers, Setting, Subject
from glmquant.evaluation.routing_metrics import RoutingMetrics, measure_routing
from glmquant.evaluation.share import Share
from glmquant.evaluation.source import Logits, Query
from glmquant.evaluation.stored_baseline import BaselineWriter, StoredBaseline
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer
from glmquant.progress import Progress
from glmquant.recipe.changes import named
from glmquant.recipe.check_options import CheckOptions, Limits, Task
from glmquant.recipe.schema import Recipe
from glmquant.runtime.classify import OnnxClassifier
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.session import GRAPH_FILE, is_classifier
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.inventory import sha256_of
from glmquant.store.manifest import MANIFEST, Manifest, read_manifest
from glmquant.streaming.activations import ActivationStore

log = logging.getLogger("glmquant")
BESIDE_MANIFEST: Final = {"train", "export", "check"}
"""Sections of a recipe that a bundle's manifest does not have."""

MEASURED_LIBRARIES = ("glmquant", "onnxruntime", "torch")


def check_bundle(
    path: Path,
    baseline: Checkpoint | StoredBaseline,
    options: CheckOptions,
    *,
    recipe: Recipe,
    cache: Path | None,
    store: ActivationStore,
    progress: Progress,
    against: AccuracyReport | None = None,
    save_baseline: Path | None = None,
    ranks: Ranks = ALONE,
) -> AccuracyReport:
    """The report on the bundle in ``path``; where ``options`` has no limits, by those that the bundle brings.

    Args:
        recipe: for what the report says of it, where it is the one that the bundle was made by.
        cache: where the baseline's answers are kept; a classifier's are never.
        save_baseline: file to write the baseline's answers to, with its head.
        store: for the baseline's activations; its device computes.
        against: an earlier report that this one is to be compared with.
        ranks: who share the queries; the first one alone reads and writes what is kept.

    Raises:
        GlmQuantError: a bundle that cannot be opened, data that cannot be read, nothing to compare, or a baseline of
            another model.
    """
    classifies = is_classifier(path)
    ranks.require_same(
        lambda: {
            "the bundle": f"{sha256_of(path / GRAPH_FILE)}, {_bundle_bytes(path)} bytes",
            "the baseline": baseline.fingerprint,
            **arithmetic(torch.float32, store.device),
        }
    )
    manifest = read_manifest(path / MANIFEST) if (path / MANIFEST).is_file() else None
    tokenizer = require_same_model(path, baseline)
    notes = origin_notes(baseline, manifest)
    options, kept = (
        _with_limits(options, manifest),
        _kept(baseline, None if classifies else cache, save_baseline, store, ranks),
    )
    if classifies:
        classifier = OnnxClassifier.open(path, num_threads=_threads(ranks))
        setting = _setting(path, baseline, classifier.accuracy_level, manifest, recipe)
        report = evaluate_classifier(
            classifier,
            baseline,
            tokenizer,
            options,
            setting,
            progress,
            store,
            against,
            kept,
            trained_on=() if manifest is None else manifest.training_texts,
            ranks=ranks,
        )
        return replace(report, notes=(*notes, *report.notes))
    info = OnnxModel.open(path).info  # which shows, too, that it can be opened; then it is let go
    setting = _setting(path, baseline, info.accuracy_level, manifest, recipe)
    context = min(info.max_length, baseline.config.max_position_embeddings)
    share = Share(ranks, info.vocab_size)
    source = BaselineSource(baseline, progress, kept, store, share)
    report = evaluate(
        _OpenedWhenAsked(path, ranks),
        source,
        tokenizer,
        options,
        setting,
        progress,
        context,
        calibration_texts=() if manifest is None else manifest.calibration_texts,
        against=against,
        route=None if baseline.config.experts is None else _router(path, source, ranks),
        share=share,
    )
    answers, unanswered = _answers(path, baseline, tokenizer, options, progress, store, ranks)
    return replace(report, notes=(*notes, *unanswered), answers=answers)


def _answers(
    path: Path,
    baseline: Checkpoint | StoredBaseline,
    tokenizer: GlmTokenizer,
    options: CheckOptions,
    progress: Progress,
    store: ActivationStore,
    ranks: Ranks,
) -> tuple[tuple[PromptAnswers, ...], tuple[str, ...]]:
    """To the prompts, by the first rank; and a note where there can be none."""
    if not options.prompts:
        return (), ()
    if isinstance(baseline, StoredBaseline):
        return (), ("check.prompts were not asked, since a stored baseline answers nothing new",)
    answers: tuple[PromptAnswers, ...] = ()
    if ranks.is_first:
        model = OnnxModel.open(path, num_threads=_threads(ranks))
        source = BaselineSource(baseline, progress, None, store)
        answers = greedy_answers(drafter(model), source, tokenizer, options, model.info.eos_ids)
    return ranks.broadcast(answers), ()


def _router(path: Path, baseline: BaselineSource, ranks: Ranks) -> Callable[[Sequence[Ids]], RoutingMetrics]:
    def route(windows: Sequence[Ids]) -> RoutingMetrics:
        assert baseline.routes is not None
        return measure_routing(path, baseline.routes, windows, ranks, _threads(ranks))

    return route


def _threads(ranks: Ranks) -> int | None:
    """ONNX Runtime's: every core alone, with other ranks beside this one as many as torch takes (OMP_NUM_THREADS)."""
    return None if ranks.count == 1 else torch.get_num_threads()


def _kept(
    baseline: Checkpoint | StoredBaseline,
    cache: Path | None,
    save: Path | None,
    store: ActivationStore,
    ranks: Ranks,
) -> AnswerStore | None:
    """Where the baseline's answers come from, or go to."""
    if isinstance(baseline, StoredBaseline):
        return baseline
    if cache is not None and ranks.is_first:
        require_writable_cache(cache)
    kept = None if cache is None else BaselineCache(cache, baseline.fingerprint, baseline.config, store.device)
    return kept if save is None else BaselineWriter(save, baseline, kept)


def _with_limits(options: CheckOptions, manifest: Manifest | None) -> CheckOptions:
    if manifest is None or manifest.limits == Limits():
        return options
    if options.limits != Limits():
        unused = [
            name for name, limit in manifest.limits if limit is not None and getattr(options.limits, name) is None
        ]
        if unused:
            log.warning("not judged: the bundle's own limits on %s, since others were given", ", ".join(unused))
        return options
    log.info("no limits are given: judging by those that the bundle was made with")
    return options.model_copy(update={"limits": manifest.limits})


def with_files(options: CheckOptions, text: Sequence[str], tasks: Sequence[str] | None) -> CheckOptions:
    """``options`` with the caller's files in place of the recipe's, packaged files resolved."""
    if tasks is not None and options.tasks:
        log.info("the tasks given take the place of the recipe's %d, with their fields and prompts", len(options.tasks))
    labeled = options.tasks if tasks is None else tuple(Task(data=name) for name in tasks)
    return options.model_copy(
        update={
            "text": tuple(assets.resolve(name) for name in text or options.text),
            "tasks": tuple(_resolved(task) for task in labeled),
        }
    )


def _resolved(task: Task) -> Task:
    shots = task.few_shot
    if shots is not None:
        shots = shots.model_copy(update={"data": assets.resolve(shots.data)})
    return task.model_copy(update={"data": assets.resolve(task.data), "few_shot": shots})


@dataclass(frozen=True)
class _OpenedWhenAsked:
    """A bundle as a source of logits, opened only once the baseline, which :func:`evaluate` asks first, has been
    through its blocks: the two are not in memory together."""

    path: Path
    ranks: Ranks

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        model = OnnxModel.open(self.path, num_threads=_threads(self.ranks))
        yield from OnnxSource(model, self.ranks).logits(queries)


def _setting(
    path: Path,
    baseline: Checkpoint | StoredBaseline,
    accuracy_level: int,
    manifest: Manifest | None,
    recipe: Recipe,
) -> Setting:
    described = recipe.description if manifest is None else str(manifest.recipe.get("description", ""))
    made_by_it = described == recipe.description
    return Setting(
        candidate=ModelFacts(path.name, _bundle_bytes(path)),
        baseline=ModelFacts(baseline.name, baseline.tensor_bytes),
        accuracy_level=accuracy_level,
        versions=tuple(LibraryVersion(name, version(name)) for name in MEASURED_LIBRARIES),
        recipe=described or recipe.description or None,
        groups=() if manifest is None else manifest.groups,
        subject=None if manifest is None else _subject(manifest, recipe if made_by_it else None),
    )


def _subject(manifest: Manifest, recipe: Recipe | None) -> Subject:
    """From what the bundle says of itself, and from those sections of its recipe that it does not."""
    beside = {} if recipe is None else recipe.model_dump(mode="json", include=BESIDE_MANIFEST)
    name, changes = named({**manifest.recipe, **beside})
    return Subject(
        source=manifest.origin,
        revision=manifest.source_revision,
        fingerprint=manifest.source_fingerprint,
        recipe=name,
        changes=changes,
        calibration=manifest.calibration,
        files={file: each.sha256 for file, each in manifest.files.items() if file.startswith(GRAPH_FILE)},
    )


def _bundle_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("model.onnx*"))
