"""Which layers cost most, from what quantizing recorded, and what raising them to 8 bits would buy and cost."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from glmquant.core.spec import QuantSpec
from glmquant.core.units import size
from glmquant.errors import CheckpointError
from glmquant.glm.config import GlmConfig
from glmquant.glm.groups import linear_groups, units
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.manifest import GroupRecord

RAISED_BITS = 8


@dataclass(frozen=True)
class GroupComparison:
    """One linear group in two quantizations of a model.

    Attributes:
        first_bits, second_bits: None where it is kept float.
        first_error, second_error: relative squared error of its output on calibration inputs, or of its weights where
            none were there; 0 where kept.
        share: of the second model's summed errors.
        raised_error: of the second model with 8 bits for this group; estimated from the step size, unless the first
            model has 8 bits there, which was measured.
        raised_bytes: what that adds to its size.
    """

    name: str
    first_bits: int | None
    second_bits: int | None
    first_error: float
    second_error: float
    share: float
    raised_error: float
    raised_bytes: int

    @property
    def gain_per_byte(self) -> float:
        """Error that a byte more takes away."""
        return (self.second_error - self.raised_error) / self.raised_bytes if self.raised_bytes else 0.0


@dataclass(frozen=True)
class Comparison:
    """Two quantizations of one model, group by group, those that cost the second one most first."""

    first: str
    second: str
    first_bytes: int
    second_bytes: int
    groups: tuple[GroupComparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        worst = self.groups[0].name if self.groups else "no group"
        sizes = f"{self.first} ({size(self.first_bytes)}) and {self.second} ({size(self.second_bytes)})"
        return f"<Comparison of {sizes}: {worst} costs most>"


def compare_checkpoints(first: Checkpoint, second: Checkpoint) -> Comparison:
    """Compares what both manifests recorded; no weight is read.

    Raises:
        CheckpointError: a directory that glmquant did not quantize, or models of different shapes.
    """
    records = [_records(checkpoint) for checkpoint in (first, second)]
    if [r.name for r in records[0]] != [r.name for r in records[1]] or not _same_shape(first.config, second.config):
        raise CheckpointError(
            "the two directories hold models of different shapes",
            where=f"{first.path} and {second.path}",
            expected="two quantizations of one checkpoint",
        )
    total = sum(_error(record) for record in records[1]) or 1.0
    groups = [_compare(one, other, second.config, total) for one, other in zip(*records, strict=True)]
    return Comparison(
        first=first.name,
        second=second.name,
        first_bytes=first.tensor_bytes,
        second_bytes=second.tensor_bytes,
        groups=tuple(sorted(groups, key=lambda group: -group.second_error)),
    )


def _records(checkpoint: Checkpoint) -> Sequence[GroupRecord]:
    if checkpoint.manifest is None:
        raise CheckpointError(
            "there is no glmquant.json, so nothing is known about its layers",
            where=checkpoint.path,
            expected="a directory that `quantize` or `run` (in quantized/) wrote",
        )
    return checkpoint.manifest.groups


def _same_shape(first: GlmConfig, second: GlmConfig) -> bool:
    shapes = [[(group.name, group.rows, group.columns) for group in linear_groups(c)] for c in (first, second)]
    return shapes[0] == shapes[1]


def _compare(first: GroupRecord, second: GroupRecord, config: GlmConfig, total: float) -> GroupComparison:
    (unit,) = [unit for unit in units(linear_groups(config)) if unit.name == second.name]
    now, raised = _error(second), _error(second)
    added = 0
    if second.spec is not None and second.spec.bits < RAISED_BITS:
        spec = replace(second.spec, bits=RAISED_BITS)
        added = unit.stored_bytes(spec) - unit.stored_bytes(second.spec)
        raised = _error(first) if _has_bits(first.spec, RAISED_BITS) else now * _shrinks(second.spec)
    return GroupComparison(
        name=second.name,
        first_bits=None if first.spec is None else first.spec.bits,
        second_bits=None if second.spec is None else second.spec.bits,
        first_error=_error(first),
        second_error=now,
        share=now / total,
        raised_error=raised,
        raised_bytes=added,
    )


def _shrinks(spec: QuantSpec) -> float:
    """A uniform quantizer's squared error goes with the square of its step: with 1 / (2^bits - 1)²."""
    return float(((2**spec.bits - 1) / (2**RAISED_BITS - 1)) ** 2)


def _has_bits(spec: QuantSpec | None, bits: int) -> bool:
    return spec is not None and spec.bits == bits


def _error(record: GroupRecord) -> float:
    measured = record.weight_error if record.output_error is None else record.output_error
    return measured or 0.0
