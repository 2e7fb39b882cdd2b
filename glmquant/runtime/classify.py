"""Text classification with an exported classifier.

Shape suffixes: I texts, B batch, T tokens, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from glmquant.core.protocols import Tokenizer
from glmquant.core.ranks import ALONE, Ranks
from glmquant.core.softmax import softmax
from glmquant.core.untrusted import shown
from glmquant.data.sequences import Ids, encode_texts, length_batches, padded
from glmquant.errors import ExportError, GenerationError
from glmquant.glm.config import GlmConfig
from glmquant.glm.layouts.hf_config import read_bundle_config
from glmquant.progress import Progress, silent
from glmquant.runtime.session import (
    CONFIG_FILE,
    GRAPH_FILE,
    INPUTS,
    Provider,
    Settings,
    open_session,
    parse_size,
    require_bundle,
    require_provider,
)

SIZES = ("glmquant.max_length", "glmquant.accuracy_level")
Logits = npt.NDArray[np.float32]
TOKENS_AT_ONCE = 2048


@dataclass(frozen=True)
class LabelProbability:
    label: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """A text's label.

    Attributes:
        label: the most likely one.
        probability: of that label.
        probabilities: of all labels, in the model's order.
        truncated: the text was longer than the model's ``max_length``, and its end was not read.
    """

    label: str
    probability: float
    probabilities: tuple[LabelProbability, ...] = field(repr=False)
    truncated: bool


class OnnxClassifier:
    """A classifier's bundle opened in ONNX Runtime.

    Attributes:
        labels: in the order of the logits.
        max_length: maximum number of tokens of a text, the tokenizer's prefix included.
        accuracy_level: ``accuracy_level`` of its MatMulNBits operators.
    """

    def __init__(self, session: ort.InferenceSession, config: GlmConfig, max_length: int, accuracy_level: int) -> None:
        self._session, self._config = session, config
        self.labels, self.max_length, self.accuracy_level = config.labels, max_length, accuracy_level

    @classmethod
    def open(cls, directory: Path, *, num_threads: int | None = None, provider: Provider = "cpu") -> "OnnxClassifier":
        """Open the bundle in ``directory``.

        Args:
            num_threads: within an operator; None lets ONNX Runtime use every core.
            provider: execution provider.

        Raises:
            ExportError: ``directory`` is not a classifier that glmquant exported, or damaged; or ``provider`` is not
                available.
        """
        require_provider(provider)
        require_bundle(directory)
        config, metadata = _config(directory), _metadata(directory)
        # In profile `standard` the accuracy level is a session option, which must be set before the graph is loaded.
        level = metadata["glmquant.accuracy_level"]
        settings = Settings((), config.pad_token_id, {"session.qdq_matmulnbits_accuracy_level": str(level)})
        session = open_session(directory, settings, num_threads, provider)
        return cls(session, config, metadata["glmquant.max_length"], level)

    def logits(self, ids: Sequence[Ids], progress: Progress = silent, ranks: Ranks = ALONE) -> Logits:
        """Logits of token sequences, float32 ``[I, L]``; sequences of similar lengths form a batch.

        Args:
            ranks: who share the batches; each gets all logits.

        Raises:
            GenerationError: a sequence that is empty, too long, or has ids outside the vocabulary.
            ExportError: ONNX Runtime cannot run the graph, or the logits are not finite.
        """
        self._check(ids)
        logits_IL = np.empty((len(ids), len(self.labels)), np.float32)
        done, batches = 0, length_batches([len(sequence) for sequence in ids], TOKENS_AT_ONCE)
        own = ranks.dealt(batches)
        for batch in own:
            ids_BT, mask_BT = padded([ids[index] for index in batch], self._config.pad_token_id)
            logits_IL[batch] = self._run(ids_BT, mask_BT)
            done += len(batch)
            progress("classifying", done, sum(map(len, own)))
        for rank, rows_IL in enumerate(ranks.gather(logits_IL)):
            theirs = [index for batch in batches[rank :: ranks.count] for index in batch]
            logits_IL[theirs] = rows_IL[theirs]
        if not np.isfinite(logits_IL).all():
            raise ExportError(
                "the classifier's logits are not finite",
                expected="finite numbers",
                hint="if the model runs in float16, a value may have overflowed: export with export.dtype=float32",
            )
        return logits_IL

    def _run(self, ids_BT: Ids, mask_BT: Ids) -> Logits:
        try:
            logits_BL: Logits = self._session.run(["logits"], {"input_ids": ids_BT, "attention_mask": mask_BT})[0]
        except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
            raise ExportError(
                f"ONNX Runtime could not run the model: {error}",
                expected=f"a graph that onnxruntime {ort.__version__} can run on this machine",
            ) from error
        return logits_BL.astype(np.float32, copy=False)

    def _check(self, ids: Sequence[Ids]) -> None:
        for number, sequence in enumerate(ids, start=1):
            if not 1 <= len(sequence) <= self.max_length:
                raise GenerationError(
                    f"sequence {number} has {len(sequence)} tokens",
                    expected=f"1 to {self.max_length}, the bundle's max_length",
                )
            if sequence.min() < 0 or sequence.max() >= self._config.vocab_size:
                raise GenerationError(
                    f"sequence {number}: token ids range from {sequence.min()} to {sequence.max()}",
                    expected=f"ids from 0 to {self._config.vocab_size - 1}",
                    hint="encode the text with the bundle's tokenizer",
                )


def classify(
    model: OnnxClassifier, texts: Sequence[str], tokenizer: Tokenizer, progress: Progress = silent
) -> list[Classification]:
    """Classify each text: its label, and the softmax of its logits.

    A text longer than the model's ``max_length`` is truncated, and its result says so.

    Raises:
        DataError: an empty text.
    """
    encoded = encode_texts(texts, tokenizer, model.max_length)
    logits_IL = model.logits(encoded.ids, progress).astype(np.float64)
    return [_classification(model.labels, *row) for row in zip(logits_IL, encoded.truncated, strict=True)]


def _classification(labels: tuple[str, ...], logits_L: npt.NDArray[np.float64], truncated: bool) -> Classification:
    probabilities = [LabelProbability(label, float(p)) for label, p in zip(labels, softmax(logits_L), strict=True)]
    best = max(probabilities, key=lambda each: each.probability)
    return Classification(best.label, best.probability, tuple(probabilities), truncated)


def _config(directory: Path) -> GlmConfig:
    path = directory / CONFIG_FILE
    config = read_bundle_config(path)
    if not config.num_labels:
        raise ExportError(
            f"{directory} is a language model's bundle, not a classifier's",
            where=path,
            expected="labels in id2label",
            hint="export a classifier's checkpoint, such as `train_classifier` writes",
        )
    return config


def _metadata(directory: Path) -> dict[str, int]:
    path = directory / GRAPH_FILE
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's own exceptions share no base class but this
        raise ExportError(
            f"cannot read {path}: {error}", where=path, expected="an ONNX graph", hint="export the model again"
        ) from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    inputs = tuple(value.name for value in model.graph.input)
    try:
        sizes = {name: parse_size(metadata[name]) for name in SIZES}
    except (KeyError, ValueError):
        sizes = {}
    if inputs != INPUTS or not sizes:
        raise ExportError(
            f"{path} is not a classifier that glmquant exported: its inputs are {shown(list(inputs)[:4])}",
            where=path,
            expected=f"inputs {', '.join(INPUTS)}, and metadata {' and '.join(SIZES)}, each a number",
            hint="export the checkpoint with glmquant",
        )
    return sizes
