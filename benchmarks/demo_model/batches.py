"""Endless, seeded training batches: windows of the handbook, and reviews of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.demo_model.corpus import Corpus, Review, Tokenizer

WINDOW = 512
WINDOWS_PER_BATCH = 4
ENGLISH_SHARE = 0.7
REVIEW_POSITIONS = 4096
PLAIN_SHARE = 0.2
LABEL_WEIGHT = 10.0
BUCKET = 16


@dataclass(frozen=True)
class Batch:
    ids_BT: Tensor
    weights_BT: Tensor
    """Of the loss at each position's own token; 0 for the prefix and for padding."""


def handbook_batches(corpus: Corpus, tokenizer: Tokenizer, seed: int) -> Iterator[Batch]:
    """Windows at random offsets, each after the prefix, as evaluation reads them."""
    rng = np.random.default_rng([seed, 1])
    streams = [np.array([*tokenizer.encode(handbook.train), tokenizer.eos]) for handbook in (corpus.en, corpus.zh)]
    prefix = len(tokenizer.prefix)
    weights = torch.ones(WINDOWS_PER_BATCH, prefix + WINDOW)
    weights[:, :prefix] = 0
    while True:
        ids = np.empty(weights.shape, np.int64)
        ids[:, :prefix] = tokenizer.prefix
        for row in ids:
            stream = streams[int(rng.random() > ENGLISH_SHARE)]
            start = rng.integers(len(stream) - WINDOW + 1)
            row[prefix:] = stream[start : start + WINDOW]
        yield Batch(torch.from_numpy(ids), weights)


def review_batches(reviews: list[Review], tokenizer: Tokenizer, seed: int) -> Iterator[Batch]:
    """Epoch after epoch; reviews of similar length share a batch, so that little is padding."""
    rng = np.random.default_rng([seed, 2])
    prompted = [_prompted(review, tokenizer) for review in reviews]
    plain = [tokenizer.encode(review.text) for review in reviews]
    while True:
        as_plain = rng.random(len(reviews)) < PLAIN_SHARE
        epoch = [plain[i] if as_plain[i] else prompted[i] for i in rng.permutation(len(reviews))]
        groups = list(_by_length(epoch))
        for i in rng.permutation(len(groups)):
            yield _padded(groups[i], tokenizer)


def _prompted(review: Review, tokenizer: Tokenizer) -> list[int]:
    return [*tokenizer.encode(review.prompt), tokenizer.label_ids[review.label]]


def _by_length(documents: list[list[int]]) -> Iterator[list[list[int]]]:
    """Groups of at most `REVIEW_POSITIONS` positions; sorting is stable, so their mix varies."""
    group: list[list[int]] = []
    for document in sorted(documents, key=lambda ids: len(ids) // BUCKET):
        if group and (len(group) + 1) * (len(document) + BUCKET) > REVIEW_POSITIONS:
            yield group
            group = []
        group.append(document)
    yield group


def _padded(documents: list[list[int]], tokenizer: Tokenizer) -> Batch:
    """Prefix, document, end; padded on the right, where causal attention needs no mask."""
    prefix = len(tokenizer.prefix)
    length = prefix + max(map(len, documents)) + 1
    ids = torch.zeros(len(documents), length, dtype=torch.int64)
    weights = torch.zeros(ids.shape)
    labels = set(tokenizer.label_ids.values())
    for i, document in enumerate(documents):
        row = [*tokenizer.prefix, *document, tokenizer.eos]
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, prefix : len(row)] = 1
        if document[-1] in labels:
            weights[i, len(row) - 2] = LABEL_WEIGHT
    return Batch(ids, weights)
