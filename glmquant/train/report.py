"""What training found out, for readers and for machines."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from glmquant.inert import inert_markdown
from glmquant.train.loop import EpochMetrics, History

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class LabelCount:
    label: str
    train: int
    validation: int


@dataclass(frozen=True)
class TrainingReport:
    """A training run.

    Attributes:
        mode: what was trained: ``head``, ``lora`` or ``full``.
        head: the name the head is stored under: ``score`` or ``classifier_head``.
        labels: in the order of the head's rows.
        num_truncated: examples whose end was not read, since they are longer than ``max_length`` tokens.
    """

    mode: str
    head: str
    data: str
    labels: tuple[LabelCount, ...]
    num_truncated: int
    max_length: int
    learning_rate: float
    history: History

    @property
    def best(self) -> EpochMetrics:
        return self.history.epochs[self.history.best - 1]

    @property
    def num_train(self) -> int:
        return sum(count.train for count in self.labels)

    @property
    def num_validation(self) -> int:
        return sum(count.validation for count in self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """The whole report."""
        best = self.best
        epochs = self.history.epochs
        rows = [
            "# Classifier training",
            "",
            f"- Trained: {self.mode}, learning rate {self.learning_rate:g}; the head is stored as `{self.head}`",
            f"- Data: {inert_markdown(self.data)}, {self.num_train:,} examples for training, "
            f"{self.num_validation:,} for validation, {self.num_truncated:,} cut at {self.max_length:,} tokens",
            f"- Best epoch: {best.epoch} of {len(epochs)}, validation accuracy {best.validation_accuracy:.2%}",
            f"- Learning curve: training loss {_curve([e.train_loss for e in epochs])}, validation loss "
            f"{_curve([e.validation_loss for e in epochs])}, validation accuracy "
            f"{_curve([e.validation_accuracy for e in epochs])}",
            "",
            "| Epoch | Training loss | Validation loss | Validation accuracy |",
            "|--:|--:|--:|--:|",
            *(
                f"| {e.epoch} | {e.train_loss:.4f} | {e.validation_loss:.4f} | {e.validation_accuracy:.2%} |"
                for e in epochs
            ),
            "",
            "| Label | Training | Validation |",
            "|---|--:|--:|",
            *(f"| {inert_markdown(c.label)} | {c.train:,} | {c.validation:,} |" for c in self.labels),
        ]
        return "\n".join(rows) + "\n"


def _curve(values: Sequence[float]) -> str:
    """The values as bars, lowest to highest."""
    low, high = min(values), max(values)
    steps = (len(BARS) - 1) / (high - low) if high > low else 0
    return "".join(BARS[round((value - low) * steps)] for value in values)
