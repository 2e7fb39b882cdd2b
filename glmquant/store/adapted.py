"""A checkpoint's tensors with a LoRA adapter merged into them as they are read, a strip of rows at a time.

Sums are in float32 and rounded once to the dtype of the checkpoint, as PEFT's are. Products are in float64: those of
float32 may be rounded to bfloat16 on the way (:mod:`glmquant.core.matmul`), whenever a block happens to be read.

Shape suffixes: N output rows, K input columns, R rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from torch import Tensor

from glmquant.core.finite import is_finite
from glmquant.core.parallel import over_strips
from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError
from glmquant.glm.config import LinearGroup
from glmquant.glm.layouts.fields import Fields
from glmquant.glm.layouts.labels import HEAD_BIAS, HEAD_WEIGHT, MOST_LABELS, SCORE_WEIGHT, read_labels
from glmquant.glm.layouts.layout import Layout
from glmquant.glm.layouts.resolve import as_classifier
from glmquant.glm.layouts.spans import Span, named_spans
from glmquant.glm.linear import Linear
from glmquant.glm.names import EMBEDDING, HEAD
from glmquant.store.adapter import Adapter
from glmquant.store.adapter_config import ADAPTER_CONFIG
from glmquant.store.adapter_tensors import LowRank
from glmquant.store.canonical import TensorTable
from glmquant.store.tensors import StoredTensor

CLASSIFICATION_HEADS: Final = (HEAD_WEIGHT, HEAD_BIAS, SCORE_WEIGHT)
PREFIXES: Final = ("", "model.", "transformer.")
"""Left out where the bare model, without its head, was trained."""


class Change(Protocol):
    """What an adapter does to some rows of a canonical tensor."""

    @property
    def span(self) -> Span: ...

    @property
    def source(self) -> str:
        """The adapter's name for it."""
        ...

    def apply(self, out: Tensor) -> None:
        """Changes the whole canonical tensor ``[N, …]`` in place."""
        ...


@dataclass(frozen=True)
class Copied:
    """Rows that were trained as a whole, in place of the base's."""

    span: Span
    stored: StoredTensor

    @property
    def source(self) -> str:
        return self.stored.name

    def apply(self, out: Tensor) -> None:
        part, first = _rows(out, self.span), self.span.first

        def fill(rows: slice) -> None:
            values = self.stored.read((first + rows.start, first + rows.stop))
            _store(part[rows], values, self.stored)

        over_strips(fill, len(part), part[0].numel())


@dataclass(frozen=True)
class Added:
    """``W + scale * B A`` of some rows; with DoRA (arXiv:2402.09353) each row then gets the norm that was trained."""

    span: Span
    low_rank: LowRank

    @property
    def source(self) -> str:
        return self.low_rank.module

    def apply(self, out: Tensor) -> None:
        low_rank, first, part_NK = self.low_rank, self.span.first, _rows(out, self.span)
        down_RK = _oriented(low_rank.down.read(), low_rank.transposed).double() * low_rank.scale
        whole = low_rank.up.read().T if low_rank.transposed else None

        def add(rows: slice) -> None:
            start, stop = first + rows.start, first + rows.stop
            up_NR = low_rank.up.read((start, stop)) if whole is None else whole[start:stop]
            added_NK = (up_NR.double() @ down_RK).float()
            if low_rank.transposed:  # PEFT rounds an embedding's addition by itself
                added_NK = added_NK.to(out.dtype)
            merged_NK = part_NK[rows].float() + added_NK
            if low_rank.magnitude is not None:
                size_N = low_rank.magnitude.read((start, stop)).float()
                merged_NK *= (size_N / merged_NK.norm(dim=1)).unsqueeze(1)
            _store(part_NK[rows], merged_NK, low_rank.up)

        over_strips(add, len(part_NK), part_NK.shape[1])


@dataclass(frozen=True)
class AddedBias:
    """``b + scale * c`` of some rows of a bias."""

    span: Span
    stored: StoredTensor
    scale: float

    @property
    def source(self) -> str:
        return self.stored.name

    def apply(self, out: Tensor) -> None:
        part_N, first = _rows(out, self.span), self.span.first
        added_N = self.stored.read((first, first + self.span.count)).float()
        _store(part_N, part_N.float() + self.scale * added_N, self.stored)


def _rows(out: Tensor, span: Span) -> Tensor:
    return out[span.at : span.at + span.count]


def _oriented(tensor: Tensor, transposed: bool) -> Tensor:
    return tensor.T if transposed else tensor


def _store(out: Tensor, values: Tensor, stored: StoredTensor) -> None:
    out.copy_(values)
    if not is_finite(out):
        raise CheckpointError(
            f"merged with {shown(stored.name)}, a weight does not fit {out.dtype}",
            where=stored.path,
            expected="finite weights",
            hint="see that the adapter belongs to this model, and that its training did not diverge",
        )


@dataclass(frozen=True)
class AdaptedTable(TensorTable):
    """A float checkpoint's tensors, changed as an adapter says.

    Attributes:
        changes: by canonical tensor, in the order in which they are applied.
    """

    changes: Mapping[str, Sequence[Change]] = field(default_factory=dict)

    def vector(self, name: str) -> Tensor:
        return self._changed(name, super().vector(name))

    def linear(self, group: LinearGroup) -> Linear:
        linear, start = super().linear(group), 0
        assert isinstance(linear.weight, Tensor)
        for member, rows in zip(group.members, group.member_rows, strict=True):
            part = slice(start, start + rows)
            self._changed(f"{member}.weight", linear.weight[part])
            if linear.bias_N is not None:
                self._changed(f"{member}.bias", linear.bias_N[part])
            start += rows
        return linear

    def _changed(self, name: str, tensor: Tensor) -> Tensor:
        for change in self.changes.get(name, ()):
            change.apply(tensor)
        return tensor


def adapted(table: TensorTable, adapter: Adapter, config: dict[str, Any]) -> AdaptedTable:
    """The tensors of ``table`` with ``adapter`` merged as they are read.

    A head that is tied to the embedding is untied where one of the two changes: so it was trained. A language model
    becomes a classifier where the adapter brings a classification head.

    Args:
        config: the checkpoint's ``config.json``, for the labels of such a head.

    Raises:
        CheckpointError: a tensor of the adapter that has no place in the model, or another shape than its place.
    """
    table = _with_head(table, adapter, config)
    changes = _changes(table.layout, adapter)
    layout, own = table.layout, table.layout.config
    if own.tie_word_embeddings and not own.num_labels and changes.keys() & {EMBEDDING, HEAD}:
        layout = replace(layout, config=replace(own, tie_word_embeddings=False))
    return AdaptedTable(layout, table.stored, None, changes)


def _with_head(table: TensorTable, adapter: Adapter, config: dict[str, Any]) -> TensorTable:
    head = {name: stored for name, stored in adapter.copies.items() if name in CLASSIFICATION_HEADS}
    weight = head.get(HEAD_WEIGHT) or head.get(SCORE_WEIGHT)
    if weight is None or table.layout.config.num_labels:
        return table
    labels = tuple(f"LABEL_{number}" for number in range(min(weight.shape[0], MOST_LABELS)))
    if config.get("id2label") is not None:
        labels = read_labels(Fields(config, "config.json"), head)
    return replace(table, layout=as_classifier(table.layout, labels, head), stored={**table.stored, **head})


def _changes(layout: Layout, adapter: Adapter) -> dict[str, list[Change]]:
    places = _Places(layout, adapter)
    found: list[Change] = []
    for name, stored in adapter.copies.items():
        found += [Copied(span, stored) for span in places.of(name, stored.shape)]
    for module, low_rank in adapter.additions.items():
        spans = places.of(f"{module}.weight", low_rank.shape)
        found += [Added(span, low_rank) for span in spans]
        if low_rank.bias is not None:
            spans = places.of(f"{module}.bias", low_rank.bias.shape)
            found += [AddedBias(span, low_rank.bias, low_rank.scale) for span in spans]
    by_tensor: dict[str, list[Change]] = {}
    for change in found:
        _reject_overlap(change, by_tensor.setdefault(change.span.tensor, []), adapter)
        by_tensor[change.span.tensor].append(change)
    return by_tensor


def _reject_overlap(change: Change, earlier: Sequence[Change], adapter: Adapter) -> None:
    for other in earlier:
        if type(other) is type(change) and change.span.overlaps(other.span):
            raise CheckpointError(
                f"{shown(other.source)} and {shown(change.source)} are the same layer",
                where=adapter.weights,
                expected="one addition a layer",
            )


class _Places:
    """Where an adapter's tensors belong in a model."""

    def __init__(self, layout: Layout, adapter: Adapter) -> None:
        self._spans, self._adapter, self._config = named_spans(layout), adapter, layout.config

    def of(self, name: str, shape: tuple[int, ...]) -> tuple[Span, ...]:
        """The rows of canonical tensors that a named tensor of this shape is for."""
        spans = next((self._spans[full] for each in PREFIXES if (full := each + name) in self._spans), None)
        if spans is None:
            raise self._error(f"the adapter's {shown(name)} has no place in a {self._config.family} model")
        if spans[0].shape != shape:
            has, wanted = shown(list(shape)), list(spans[0].shape)
            raise self._error(f"the adapter's {shown(name)} is for a tensor of shape {has}, the model's is {wanted}")
        return spans

    def _error(self, what: str) -> CheckpointError:
        base = self._adapter.config.base
        return CheckpointError(
            what,
            where=self._adapter.weights,
            expected="an adapter of this model, float",
            hint=None if base is None else f"give the model it was trained on: {ADAPTER_CONFIG} names {shown(base)}",
        )
