"""The one walk through a model's blocks: a block in memory, the next being read, and a visitor that moves the streams.

Calibrating, quantizing, scoring, sensitivities and a classifier's features are visitors of it.

Shape suffixes: B sequences of a batch, T tokens, D hidden, C key/value heads, E head size, R rows asked for, k experts
of a token.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.finite import is_finite
from glmquant.errors import CheckpointError
from glmquant.glm.block import Block
from glmquant.glm.parts import Context
from glmquant.progress import Progress, silent
from glmquant.streaming.activations import Activations, ActivationTensor, Batch
from glmquant.streaming.experts import RoutedStream, pass_through, routed
from glmquant.streaming.prefetch import blocks_ahead


class Visitor(Protocol):
    """What is done with a block while the streams pass through it."""

    def visit(self, layer: int, block: Block, streams: Sequence[Activations]) -> None:
        """Moves every stream to the inputs of the next block."""
        ...


def walk(
    load: Callable[[int], Block],
    layers: Iterable[int],
    streams: Sequence[Activations],
    visitor: Visitor,
    *,
    device: torch.device = CPU,
    progress: Progress = silent,
    stage: str = "forward",
    total: int = 0,
) -> None:
    """Shows each block, on the device, to the visitor. The next one is read meanwhile.

    Where streams hold no batch, as those of a rank where there are more ranks than batches, a plain forward pass reads
    nothing; any other visitor may have a part in what the ranks share.

    Args:
        stage, total: what progress calls it, and how many blocks the model has.
    """
    if isinstance(visitor, Forward) and streams and not any(stream.batches for stream in streams):
        return
    for layer, block in blocks_ahead(load, layers):
        progress(stage, layer, total)
        held = [block.to(device)]
        del block
        visitor.visit(layer, held.pop(), streams)  # a variable would keep the block when the visitor lets it go
    progress(stage, total, total)


class Forward:
    """A visitor that computes each block with float weights.

    Args:
        on_key_values: is shown a block's number, keys (rotated) and values ``[B, T, C, E]``, batch by batch.
        on_experts: is shown a block's number, a batch, and the experts that its tokens chose, int64 ``[B * T, k]``.
    """

    def __init__(
        self,
        on_key_values: Callable[[int, Tensor, Tensor], None] | None = None,
        on_experts: Callable[[int, Batch, Tensor], None] | None = None,
    ) -> None:
        self._on_key_values, self._on_experts = on_key_values, on_experts

    def visit(self, layer: int, block: Block, streams: Sequence[Activations]) -> None:
        """Raises CheckpointError where activations are not finite."""
        for stream in streams:
            if any(part.experts is not None for part in block.parts):
                self._visit_sparse(layer, block, stream)
                continue
            floating = block.floating(stream.dtype)
            for batch in stream.batches:
                context = self._context(layer, stream.context(batch))
                hidden_BTD = stream.hidden.read(batch)
                for part in floating.parts:
                    hidden_BTD = part.forward(hidden_BTD, context, stream.dtype)
                require_finite(hidden_BTD, f"layers.{layer}")
                stream.hidden.write(batch, hidden_BTD)

    def _visit_sparse(self, layer: int, block: Block, stream: Activations) -> None:
        """Part by part: routed experts meet all of their tokens before the next ones are read."""
        for part in block.parts:
            floating = replace(part, experts=None).mapped(lambda each: each.floating(stream.dtype), lambda gain: gain)
            with ExitStack() as stack:
                x: ActivationTensor | None = None
                if part.experts is not None:
                    through = stack.enter_context(routed(part, stream))
                    self._show_experts(layer, through)
                    pass_through(part, through)
                    x = through.x
                for batch in stream.batches:
                    context, hidden_BTD = self._context(layer, stream.context(batch)), stream.hidden.read(batch)
                    if x is None:
                        hidden_BTD = floating.forward(hidden_BTD, context, stream.dtype)
                    else:
                        hidden_BTD = floating.resume(hidden_BTD, 0, x.read(batch), context)
                    require_finite(hidden_BTD, f"layers.{layer}")
                    stream.hidden.write(batch, hidden_BTD)

    def _show_experts(self, layer: int, through: RoutedStream) -> None:
        if self._on_experts is not None:
            for batch, chosen_Tk in zip(through.stream.batches, through.chosen, strict=True):
                self._on_experts(layer, batch, chosen_Tk)

    def _context(self, layer: int, context: Context) -> Context:
        show = self._on_key_values
        return context if show is None else replace(context, on_key_values=partial(show, layer))


def last_rows(activations: Activations, counts: Sequence[int], lengths: Sequence[int]) -> list[Tensor]:
    """The residual stream at each sequence's last ``counts`` tokens: float32 ``[R, D]``, in the sequences' order; empty
    where no batch holds the sequence.

    Args:
        lengths: of the sequences, without padding.
    """
    rows = [torch.empty(0)] * len(lengths)
    for batch in activations.batches:
        for x_TD, member in zip(activations.hidden.read(batch), batch.members, strict=True):
            end = lengths[member]
            rows[member] = x_TD[end - counts[member] : end].to(CPU, copy=True)
    return rows


def require_finite(hidden_BTD: Tensor, after: str) -> None:
    """Raises CheckpointError where the residual stream ``after`` a module is not finite."""
    if not is_finite(hidden_BTD):
        raise CheckpointError(
            "the model's activations are not finite",
            where=f"after {after}",
            expected="finite values in float32",
            hint="`inspect` the checkpoint: its weights are damaged, or belong to another architecture; download it "
            "again",
        )
