"""From a language model and labeled texts to a classifier's checkpoint.

Shape suffixes: E examples, D hidden size, L labels.
"""

import math
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import linear

from glmquant.core.files import write_text
from glmquant.core.machine import physical_memory
from glmquant.core.protocols import Tokenizer
from glmquant.data.labeled import LabeledSet
from glmquant.data.sequences import EncodedTexts, encode_texts
from glmquant.errors import TrainingError
from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.config import GlmConfig
from glmquant.glm.model import ModelSource
from glmquant.glm.names import HEAD, canonical_shapes
from glmquant.progress import Progress, silent
from glmquant.recipe.schema import TrainOptions
from glmquant.store.checkpoint import Checkpoint
from glmquant.streaming.activations import ActivationStore
from glmquant.streaming.features import pooled_features
from glmquant.train.loop import Forward, History, Schedule, Trainer
from glmquant.train.report import LabelCount, TrainingReport
from glmquant.train.save import write_classifier
from glmquant.train.split import Split, class_weights, label_indices, split_examples
from glmquant.train.weights import TrainableClassifier

SCHEDULES: Final = {"head": Schedule(30, 3e-3), "lora": Schedule(5, 5e-4), "full": Schedule(4, 3e-4)}
"""Of each mode, where the recipe names none."""

BYTES_A_PARAMETER: Final = {"lora": 6, "full": 20}
"""Weights, gradients, two moments and the best epoch's copy in float32; frozen weights as stored and in float32."""

FEATURES: Final = "features"
INITIAL_SCALE: Final = 0.02


def train_classifier(
    checkpoint: Checkpoint,
    labeled: LabeledSet,
    tokenizer: Tokenizer,
    options: TrainOptions,
    directory: Path,
    progress: Progress = silent,
    store: ActivationStore | None = None,
) -> TrainingReport:
    """Trains a head, and more as ``options.mode`` says, and writes the classifier into the existing ``directory``.

    What an earlier, unfinished run with the same inputs left there is taken up. ``training.json`` and ``training.md``
    hold the report.

    Args:
        store: where activations of the frozen model may lie, and the device that computes them.

    Raises:
        DataError: a label with one example, or an empty text.
        TrainingError: a quantized checkpoint, one too large to train as asked, or a loss that is not finite.
    """
    _refuse_impossible(checkpoint, options)
    split = split_examples(labeled, options.validation, options.seed)
    encoded = _encode(labeled, tokenizer, min(options.max_length, checkpoint.config.max_position_embeddings))
    run = _Run(checkpoint, labeled, encoded, split, options, directory, progress, store)
    backbone, head, history = run.head() if options.mode == "head" else run.inside()
    write_classifier(checkpoint, backbone, head, options, directory, labeled.sha256)
    report = _report(labeled, split, encoded, options, run.schedule, head, history)
    write_text(directory / "training.json", report.to_json())
    write_text(directory / "training.md", report.to_markdown())
    return report


class _Run:
    def __init__(
        self,
        checkpoint: Checkpoint,
        labeled: LabeledSet,
        encoded: EncodedTexts,
        split: Split,
        options: TrainOptions,
        directory: Path,
        progress: Progress,
        store: ActivationStore | None,
    ) -> None:
        self._store = store
        self._checkpoint, self._labels, self._encoded = checkpoint, labeled.labels, encoded
        self._split, self._options, self._directory, self._progress = split, options, directory, progress
        self._truth_E = label_indices(labeled)
        usual = SCHEDULES[options.mode]
        self.schedule = Schedule(options.epochs or usual.epochs, options.learning_rate or usual.learning_rate)

    def head(self) -> tuple[ModelSource, ClassificationHead, History]:
        """On the frozen backbone's features, each divided by its root mean square while the head is trained."""
        cache = self._directory / FEATURES
        cache.mkdir(exist_ok=True)
        features_ED = pooled_features(
            self._checkpoint, self._encoded.ids, cache=cache, store=self._store, progress=self._progress
        )
        scale_D = features_ED[torch.from_numpy(self._split.train)].square().mean(0).sqrt().clamp(min=1e-6)
        scaled_ED = features_ED / scale_D
        first = self._first_head()
        weight_LD = torch.zeros_like(first.weight_LD).requires_grad_()
        bias_L = None if first.bias_L is None else first.bias_L.clone().requires_grad_()
        parameters = [weight_LD] if bias_L is None else [weight_LD, bias_L]

        def forward(batch: list[int]) -> Tensor:
            return linear(scaled_ED[batch], weight_LD, bias_L)

        history = self._trainer(parameters, forward, [1] * len(features_ED)).train(self._split, self._progress)
        head = ClassificationHead(
            weight_LD.detach() / scale_D, None if bias_L is None else bias_L.detach(), self._labels
        )
        for path in cache.iterdir():
            path.unlink()
        cache.rmdir()
        return self._checkpoint, head, history

    def inside(self) -> tuple[ModelSource, ClassificationHead, History]:
        """The backbone too, or additions to it."""
        options, ids = self._options, self._encoded.ids
        first = self._first_head()
        if options.mode == "full":
            model = TrainableClassifier.full(self._checkpoint, first)
        else:
            model = TrainableClassifier.lora(self._checkpoint, first, options.rank, options.seed)
        lengths = [len(sequence) for sequence in ids]
        trainer = self._trainer(model.parameters(), lambda batch: model.logits([ids[i] for i in batch]), lengths)
        history = trainer.train(self._split, self._progress)
        return model, model.classification_head(self._labels), history

    def _trainer(self, parameters: list[Tensor], forward: Forward, lengths: list[int]) -> Trainer:
        num_labels = len(self._labels)
        weights_L = torch.ones(num_labels)
        if self._options.class_weights == "balanced":
            weights_L = class_weights(self._truth_E[torch.from_numpy(self._split.train)], num_labels)
        return Trainer(
            parameters,
            forward,
            self._truth_E,
            lengths,
            weights_L,
            self._options,
            self.schedule,
            self._directory,
        )

    def _first_head(self) -> ClassificationHead:
        shape = (len(self._labels), self._checkpoint.config.hidden_size)
        generator = torch.Generator().manual_seed(self._options.seed)
        bias_L = torch.zeros(shape[0]) if self._options.bias else None
        return ClassificationHead(INITIAL_SCALE * torch.randn(shape, generator=generator), bias_L, self._labels)


def _encode(labeled: LabeledSet, tokenizer: Tokenizer, max_length: int) -> EncodedTexts:
    places = [labeled.place(example) for example in labeled.examples]
    return encode_texts([example.text for example in labeled.examples], tokenizer, max_length, places)


def _refuse_impossible(checkpoint: Checkpoint, options: TrainOptions) -> None:
    if checkpoint.is_quantized:
        raise TrainingError(
            "the checkpoint is quantized already",
            where=checkpoint.path,
            expected="a float checkpoint",
            hint="train the original, then quantize what comes out",
        )
    if options.mode == "head":
        return
    if checkpoint.config.experts is not None:
        raise TrainingError(
            f"train.mode {options.mode} does not know routed experts",
            where="train.mode",
            expected="head, for a model with routed experts",
            hint="set train.mode=head; or train a LoRA adapter elsewhere and save the merged model",
        )
    needed = _num_weights(checkpoint.config) * BYTES_A_PARAMETER[options.mode]
    there = physical_memory()
    if needed > there:
        raise TrainingError(
            f"train.mode {options.mode} needs about {needed / 1e9:.0f} GB of memory; there are {there / 1e9:.0f}",
            where="train.mode",
            hint="use train.mode=head, which holds one block at a time",
        )


def _num_weights(config: GlmConfig) -> int:
    return sum(math.prod(shape) for name, shape in canonical_shapes(config).items() if name != HEAD)


def _report(
    labeled: LabeledSet,
    split: Split,
    encoded: EncodedTexts,
    options: TrainOptions,
    schedule: Schedule,
    head: ClassificationHead,
    history: History,
) -> TrainingReport:
    truth_E = label_indices(labeled)
    parts = [
        torch.bincount(truth_E[torch.from_numpy(part)], minlength=len(labeled.labels)).tolist()
        for part in (split.train, split.validation)
    ]
    counts = tuple(LabelCount(*row) for row in zip(labeled.labels, *parts, strict=True))
    return TrainingReport(
        mode=options.mode,
        head=head.stored_as,
        data=labeled.name,
        labels=counts,
        num_truncated=encoded.num_truncated,
        max_length=options.max_length,
        learning_rate=schedule.learning_rate,
        history=history,
    )
