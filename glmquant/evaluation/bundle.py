"""The check of a bundle on disk, language model or classifier, against the checkpoint it comes from."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from glmquant.core.device import CPU
from glmquant.evaluation.baseline_cache import BaselineCache
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.classifier import evaluate_classifier
from glmquant.evaluation.evaluate import evaluate
from glmquant.evaluation.onnx_source import OnnxSource
from glmquant.evaluation.results import AccuracyReport, LibraryVersion, ModelFacts, Setting
from glmquant.evaluation.source import Logits, Query
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.progress import Progress
from glmquant.recipe.schema import CheckOptions
from glmquant.runtime.classify import OnnxClassifier, is_classifier
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.manifest import MANIFEST, read_manifest
from glmquant.streaming.activations import Room

MEASURED_LIBRARIES = ("glmquant", "onnxruntime", "torch")

log = logging.getLogger("glmquant.evaluation")


def check_bundle(
    path: Path,
    checkpoint: Checkpoint,
    options: CheckOptions,
    *,
    recipe: str | None,
    cache: Path | None,
    room: Room,
    progress: Progress,
) -> AccuracyReport:
    """The report on the bundle in ``path``.

    Args:
        recipe: its name or description, for the report.
        cache: where the baseline's answers are kept; a classifier's are never.
        room: for the baseline's hidden states; a classifier's are computed on the processor.

    Raises:
        GlmQuantError: a bundle that cannot be opened, data that cannot be read, or nothing to compare.
    """
    tokenizer = load_tokenizer(checkpoint.path, checkpoint.config)
    if is_classifier(path):
        if room.device != CPU:
            log.warning("a classifier is checked on the processor, not on %s", room.device)
        classifier = OnnxClassifier.open(path)
        setting = _setting(path, checkpoint, classifier.accuracy_level, recipe)
        return evaluate_classifier(classifier, checkpoint, tokenizer, options, setting, progress)
    info = OnnxModel.open(path).info  # which shows, too, that it can be opened; then it is let go
    setting = _setting(path, checkpoint, info.accuracy_level, recipe)
    kept = None if cache is None else BaselineCache(cache, checkpoint.fingerprint, room.device)
    context = min(info.max_length, checkpoint.config.max_position_embeddings)
    baseline = BaselineSource(checkpoint, progress, kept, room)
    return evaluate(_OpenedWhenAsked(path), baseline, tokenizer, options, setting, progress, context)


@dataclass(frozen=True)
class _OpenedWhenAsked:
    """A bundle as a source of logits, opened only once the baseline, which :func:`evaluate` asks first, has been
    through its blocks: the two are not in memory together."""

    path: Path

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        yield from OnnxSource(OnnxModel.open(self.path)).logits(queries)


def _setting(path: Path, checkpoint: Checkpoint, accuracy_level: int, recipe: str | None) -> Setting:
    origin = path / MANIFEST
    return Setting(
        candidate=ModelFacts(path.name, _bundle_bytes(path)),
        baseline=ModelFacts(checkpoint.path.name, checkpoint.tensor_bytes),
        accuracy_level=accuracy_level,
        versions=tuple(LibraryVersion(name, version(name)) for name in MEASURED_LIBRARIES),
        recipe=recipe,
        groups=read_manifest(origin).groups if origin.is_file() else (),
    )


def _bundle_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("model.onnx*"))
