"""The training loop: AdamW over epochs, a look at the validation part after each, the best epoch kept.

Plain torch rather than ``transformers.Trainer``: what is trained are the functions that calibration, export and check
compute with, or a head on features that are computed once; a Trainer takes neither, and its import alone takes longer
than a head needs.

Shape suffixes: E examples, B batch, L labels.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from glmquant.core.files import write_atomically
from glmquant.core.untrusted import require_regular
from glmquant.errors import TrainingError
from glmquant.progress import Progress
from glmquant.recipe.schema import TrainOptions
from glmquant.train.split import Indices, Split

Forward = Callable[[list[int]], Tensor]
"""Logits ``[B, L]`` of the examples with these indices."""

WARMUP = 0.06
FLOOR = 0.05
BATCHES_SORTED = 32
STATE = "training.state"
STAGE = "training"


@dataclass(frozen=True)
class Schedule:
    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class EpochMetrics:
    """Losses are mean cross-entropies, weighted as the classes are; the training loss is that of the epoch's steps."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class History:
    """Every epoch, and which one's weights were kept."""

    epochs: tuple[EpochMetrics, ...]
    best: int


class Trainer:
    """Trains ``parameters`` so that ``forward`` tells the labels.

    Args:
        truth_E: each example's label, int64.
        lengths: of each example, in tokens: similar ones share a batch.
        weights_L: of the classes.
        directory: where the state after each epoch lies, from which a killed run resumes.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        forward: Forward,
        truth_E: Tensor,
        lengths: Sequence[int],
        weights_L: Tensor,
        options: TrainOptions,
        schedule: Schedule,
        directory: Path,
    ) -> None:
        self._parameters, self._forward = list(parameters), forward
        self._truth_E, self._lengths, self._weights_L = truth_E, np.array(lengths), weights_L
        self._options, self._schedule, self._state = options, schedule, directory / STATE
        decayed = [parameter for parameter in parameters if parameter.ndim == 2]
        plain = [parameter for parameter in parameters if parameter.ndim != 2]
        groups = [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=schedule.learning_rate)
        self._epochs: list[EpochMetrics] = []
        self._best = 0
        self._kept = [parameter.detach().clone() for parameter in self._parameters]

    def train(self, split: Split, progress: Progress) -> History:
        """Leaves the best epoch's values in the parameters.

        Raises:
            TrainingError: the loss is not finite.
        """
        self._resume()
        while not self._is_over():
            number = len(self._epochs) + 1
            train_loss = self._epoch(number, split.train, progress)
            self._note(EpochMetrics(number, train_loss, *self._measure(split.validation)))
            self._save()
        total = self._schedule.epochs * len(self._batches(split.train, 1))
        progress(STAGE, total, total)  # it may have stopped early
        with torch.no_grad():
            for parameter, kept in zip(self._parameters, self._kept, strict=True):
                parameter.copy_(kept)
        self._state.unlink(missing_ok=True)
        return History(tuple(self._epochs), self._best)

    def _is_over(self) -> bool:
        done = len(self._epochs)
        return done >= self._schedule.epochs or done - self._best >= self._options.patience

    def _epoch(self, number: int, examples: Indices, progress: Progress) -> float:
        batches = self._batches(examples, number)
        total = 0.0
        for step, batch in enumerate(batches):
            progress(STAGE, (number - 1) * len(batches) + step, self._schedule.epochs * len(batches))
            self._set_rate(((number - 1) * len(batches) + step) / (self._schedule.epochs * len(batches)))
            with self._autocast():
                logits_BL = self._forward(batch)
            loss = cross_entropy(logits_BL.float(), self._truth_E[batch], self._weights_L)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss.item()} in epoch {number}", hint="train with a smaller train.learning_rate"
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            total += loss.item() * len(batch)
        return total / len(examples)

    @torch.no_grad()
    def _measure(self, examples: Indices) -> tuple[float, float]:
        """Loss and accuracy, in float32."""
        batches = self._batches(examples, 0)
        logits_EL = torch.cat([self._forward(batch) for batch in batches]).float()
        truth_E = self._truth_E[torch.cat([torch.tensor(batch) for batch in batches])]
        accuracy = float((logits_EL.argmax(1) == truth_E).float().mean())
        return float(cross_entropy(logits_EL, truth_E, self._weights_L)), accuracy

    def _batches(self, examples: Indices, epoch: int) -> list[list[int]]:
        """Shuffled; within a stretch of ``BATCHES_SORTED`` batches, similar lengths together."""
        rng = np.random.default_rng([self._options.seed, epoch])
        order, size = rng.permutation(examples), self._options.batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), size * BATCHES_SORTED):
            stretch = order[start : start + size * BATCHES_SORTED]
            stretch = stretch[np.argsort(self._lengths[stretch], kind="stable")]
            batches += [stretch[i : i + size].tolist() for i in range(0, len(stretch), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _set_rate(self, done: float) -> None:
        """Linear warm-up, then half a cosine down to ``FLOOR`` of the peak; ``done`` is the share of all steps."""
        cosine = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.learning_rate * min(cosine, (done + 1e-3) / WARMUP)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._options.precision == "float32":
            return nullcontext()
        return torch.autocast("cpu", torch.bfloat16)

    def _note(self, metrics: EpochMetrics) -> None:
        best = self._epochs[self._best - 1] if self._best else None
        self._epochs.append(metrics)
        if best is None or _merit(metrics) > _merit(best):
            self._best = metrics.epoch
            self._kept = [parameter.detach().clone() for parameter in self._parameters]

    def _save(self) -> None:
        state = {
            "parameters": [parameter.detach() for parameter in self._parameters],
            "kept": self._kept,
            "optimizer": self._optimizer.state_dict(),
            "epochs": [asdict(metrics) for metrics in self._epochs],
            "best": self._best,
        }
        with write_atomically(self._state) as unfinished:
            torch.save(state, unfinished)

    def _resume(self) -> None:
        if not self._state.exists():
            return
        require_regular(self._state)
        state = torch.load(self._state, weights_only=True)
        with torch.no_grad():
            for parameter, saved in zip(self._parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._kept, self._best = state["kept"], state["best"]
        self._epochs = [EpochMetrics(**metrics) for metrics in state["epochs"]]


def _merit(metrics: EpochMetrics) -> tuple[float, float]:
    return metrics.validation_accuracy, -metrics.validation_loss
