"""Rows of a padded batch, moved to where attention wants them and back.

GroupQueryAttention takes real tokens at the left of each row. A batch may be padded on either side, so inside the graph
each row of new tokens is rolled left past its padding, and the hidden states are rolled back before the head. Positions
need no input: a token's position is the number of real tokens before it.

Shape suffixes: B batch, S new tokens, T all columns of the mask, D hidden size.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from glmquant.onnx_export.builder import GraphBuilder
from glmquant.onnx_export.ops import CacheStep

END = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, eq=False)
class AlignedRows:
    """The new tokens at the left of their rows, and the way back.

    Attributes:
        input_ids: int64 ``[B, S]``, rolled.
        restore_BS: int64, for each place of the original row its place in the rolled one.
    """

    input_ids: ir.Value
    restore_BS: ir.Value
    step: CacheStep


def align_rows(g: GraphBuilder, input_ids_BS: ir.Value, mask_BT: ir.Value) -> AlignedRows:
    """Shape-15, Slice-13, ArgMax-13, Range-11, Mod-13, GatherElements-13, ReduceSum-13, Cast-19."""
    length_1 = g.node("Shape", [input_ids_BS], start=1, end=2)
    recent_BS = g.node("Slice", [mask_BT, g.node("Neg", [length_1]), g.ints(END), g.ints(1)])
    first_real_B1 = g.node("ArgMax", [recent_BS], axis=1, keepdims=1)
    length = g.node("Squeeze", [length_1, g.ints(0)])
    places_S = g.node("Range", [g.int(0), length, g.int(1)])
    source_BS = g.node("Mod", [g.node("Add", [places_S, first_real_B1]), length])
    restore_BS = g.node("Mod", [g.node("Sub", [places_S, first_real_B1]), length])
    real_B = g.node("ReduceSum", [mask_BT, g.ints(1)], keepdims=0)
    total = g.node("Squeeze", [g.node("Shape", [mask_BT], start=1, end=2), g.ints(0)])
    step = CacheStep(
        seqlens_k=_int32(g, g.node("Sub", [real_B, g.int(1)])),
        query_seqlens=_int32(g, g.node("ReduceSum", [recent_BS, g.ints(1)], keepdims=0)),
        total_length=_int32(g, total),
    )
    return AlignedRows(g.node("GatherElements", [input_ids_BS, source_BS], axis=1), restore_BS, step)


def restore_rows(g: GraphBuilder, x_BSD: ir.Value, rows: AlignedRows, keep_1: ir.Value) -> ir.Value:
    """The last ``keep`` tokens of each row in their original places, all of them where ``keep`` is 0: GatherND-13.

    (A slice from ``-0`` starts at the beginning.)
    """
    kept_BS = g.node("Slice", [rows.restore_BS, g.node("Neg", [keep_1]), g.ints(END), g.ints(1)])
    return g.node("GatherND", [x_BSD, g.node("Unsqueeze", [kept_BS, g.ints(-1)])], batch_dims=1)


def last_real(g: GraphBuilder, x_BSD: ir.Value, rows: AlignedRows) -> ir.Value:
    """Each row's last real token, ``[B, 1, D]``: GatherND-13."""
    last_B = g.node("Sub", [g.node("Cast", [rows.step.query_seqlens], to=int(ir.DataType.INT64)), g.int(1)])
    return g.node("GatherND", [x_BSD, g.node("Unsqueeze", [last_B, g.ints(1, 2)])], batch_dims=1)


def _int32(g: GraphBuilder, value: ir.Value) -> ir.Value:
    return g.node("Cast", [value], to=int(ir.DataType.INT32))
