"""Labeled examples, split for training and validation."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmquant.data.labeled import LabeledSet
from glmquant.errors import DataError

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the examples of either part, in random order."""

    train: Indices
    validation: Indices


def split_examples(labeled: LabeledSet, share: float, seed: int) -> Split:
    """``share`` of each label's examples for validation, at least one; the rest for training, at least one.

    Raises:
        DataError: a label with a single example.
    """
    rng = np.random.default_rng(seed)
    require_of_each_label(labeled, 2, "two or more: one to train on, one to validate on")
    truth = label_indices(labeled).numpy()
    parts: tuple[list[Indices], list[Indices]] = ([], [])
    for label in range(len(labeled.labels)):
        members = rng.permutation(np.flatnonzero(truth == label))
        held = min(max(1, round(share * len(members))), len(members) - 1)
        parts[0].append(members[held:])
        parts[1].append(members[:held])
    train, validation = (rng.permutation(np.concatenate(part)) for part in parts)
    return Split(train, validation)


def label_indices(labeled: LabeledSet) -> Tensor:
    """Each example's label as its place in ``labeled.labels``: int64 ``[E]``."""
    places = {label: place for place, label in enumerate(labeled.labels)}
    return torch.tensor([places[example.label] for example in labeled.examples])


def class_weights(truth_E: Tensor, num_labels: int) -> Tensor:
    """Weights ``[L]`` that let every label count alike: ``E / (L * count)``."""
    counts_L = torch.bincount(truth_E, minlength=num_labels)
    return len(truth_E) / (num_labels * counts_L.float())


def require_of_each_label(labeled: LabeledSet, least: int, expected: str) -> None:
    """Raises DataError where a label has fewer than ``least`` examples."""
    counts = Counter(example.label for example in labeled.examples)
    for label in labeled.labels:
        if counts[label] < least:
            place = next((labeled.place(each) for each in labeled.examples if each.label == label), labeled.name)
            raise DataError(
                f"the label {label!r} has {counts[label]} example" + ("s" if counts[label] != 1 else ""),
                where=place,
                expected=expected,
                hint="add examples of it, or drop it",
            )
