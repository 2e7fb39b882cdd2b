"""Error propagation (QEP, arXiv:2504.09629): each linear layer also corrects the error of those quantized before it.

The inputs ``x`` that a linear layer meets come from quantized ones; the float model's are ``x'``. Weights that
give the float outputs from ``x`` as nearly as a linear map can (least squares, ridge ``λ``) are

    W* = W + E[d xᵀ] (E[x xᵀ] + λ I)⁻¹,    d = W x' - W x

(QEP, whose propagation strength scales the correction; GPTAQ, arXiv:2504.02692, §3, starts from the same in another
form). Where the output is added to the residual stream, ``d`` also holds that stream's error, so that each such layer
corrects all before it.

Shape suffixes: N output rows, K input columns.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from glmquant.core.cholesky import solve
from glmquant.core.exact_sum import Grid
from glmquant.core.matmul import float32_products
from glmquant.core.ranks import ALONE, Ranks
from glmquant.core.stats import AbsmaxAccumulator, ErrorAccumulator, HessianAccumulator, LayerStats, rooted
from glmquant.glm.linear import Linear
from glmquant.methods.gptq import cholesky_factor, ridge
from glmquant.streaming.activations import Activations, Batch

DAMPING = 0.1
ROWS_AT_ONCE = 2048
SHARED_ROWS = 1024
"""What ranks deal out of a linear layer, in runs. Fewer are dearer: columns are rounded one after the other."""
ALL_ROWS = slice(0, None)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a linear layer meets in a batch.

    Attributes:
        x: inputs ``[..., K]``.
        lost: what they fall short of the float model's, ``[..., K]``; None where errors are not propagated.
        offset: what the output is added to falls short of already, ``[..., N]``.
        weights: how much each token counts, ``[...]``; None where all count alike.
    """

    x: Tensor
    lost: Tensor | None = None
    offset: Tensor | None = None
    weights: Tensor | None = None


class LinearFit:
    """Gathers what one linear layer sees, batch by batch.

    Args:
        linear: float.
        strength: how much of the error to correct; 0 needs no reference.
        by_inputs: the inputs' error is gathered, and multiplied by the weights at the end; else that of each output.
        dtype: of the operands of that output's product.
        ranks: who gathers, each from leaves of its own.
    """

    def __init__(
        self,
        linear: Linear,
        strength: float,
        *,
        by_inputs: bool,
        dtype: torch.dtype = torch.float32,
        ranks: Ranks = ALONE,
    ) -> None:
        self._ranks = ranks
        assert isinstance(linear.weight, Tensor)
        self._linear, self._strength, self._by_inputs, self._dtype = linear, strength, by_inputs, dtype
        rows, self.columns = linear.weight.shape
        self._error_rows = self.columns if by_inputs else rows
        self.device, self.num_tokens = linear.weight.device, 0
        self._grids: tuple[Grid | None, Grid | None] = None, None

    def gather(self, stream: Activations, seen: Callable[[Batch], Seen], largest_K: Tensor | None = None) -> None:
        """Gathers all batches of a stream, leaf by leaf, so that the sums are the same however leaves are dealt out.

        Args:
            largest_K: what no input exceeds, float32, where that is known, all tokens count alike and the inputs' error
                is gathered. Otherwise each batch is asked for twice, first for the bounds that the exact sums need.
        """
        bounds = _Bounds(self._linear, self.columns, by_inputs=self._by_inputs)
        if largest_K is None:
            for batch in stream.batches:
                bounds.add(seen(batch))
        else:
            bounds.take(largest_K)
        self._grids, project = bounds.grids(stream.num_tokens, self._ranks), self._output()
        for leaf in stream.leaves:
            for batch in leaf:
                self.add(seen(batch), project)
            self._hessian.end_leaf()
            if self._error is not None:
                self._error.end_leaf()

    @cached_property
    def _hessian(self) -> HessianAccumulator:
        return HessianAccumulator(self.columns, self.device, self._grids[0])

    @cached_property
    def _error(self) -> ErrorAccumulator | None:
        if not self._strength:
            return None
        return ErrorAccumulator(self._error_rows, self.columns, self.device, self._grids[1])

    def _output(self) -> Callable[[Tensor], Tensor] | None:
        """The outputs of differences of inputs, where these are gathered."""
        if not self._strength or self._by_inputs:
            return None
        return without_bias(self._linear).floating(self._dtype)

    def add(self, seen: Seen, project: Callable[[Tensor], Tensor] | None = None) -> None:
        """``project`` is what :meth:`_output` gives."""
        self.num_tokens += seen.x.numel() // self.columns
        self._hessian.add(seen.x, seen.weights)
        if self._error is None or seen.lost is None:
            return
        error = seen.lost if project is None else project(seen.lost).float()
        if seen.offset is not None:
            error += seen.offset
        self._error.add(error, seen.x, seen.weights)

    def result(self, weight_NK: Tensor, rows: slice = ALL_ROWS) -> tuple[Tensor, LayerStats]:
        """Some rows of the weights to quantize, and the statistics to do it by; nothing may be added afterwards.

        Args:
            rows: whole slices of ``SHARED_ROWS`` but for the last.
        """
        stats = self._hessian.result(self._ranks)
        if self._error is None:
            return weight_NK[rows], stats
        error = self._error.result(self._ranks)
        if not self._by_inputs:
            error = error[rows]
        return corrected(weight_NK[rows], stats, error, self._strength, by_inputs=self._by_inputs), stats


class _Bounds:
    """The largest values of what a fit adds up products of."""

    def __init__(self, linear: Linear, columns: int, *, by_inputs: bool) -> None:
        assert isinstance(linear.weight, Tensor)
        device = linear.weight.device
        self._weight_NK, self._by_inputs = linear.weight, by_inputs
        self._inputs, self._lost = AbsmaxAccumulator(columns, device), AbsmaxAccumulator(columns, device)
        self._offset = AbsmaxAccumulator(len(linear.weight), device)
        self._longest = torch.zeros((), device=device)

    def add(self, seen: Seen) -> None:
        self._inputs.add(rooted(seen.x, seen.weights))
        if seen.lost is None:
            return
        lost_TK = rooted(seen.lost, seen.weights)
        if self._by_inputs:
            self._lost.add(lost_TK)
            return
        self._longest = torch.maximum(self._longest, lost_TK.norm(dim=1).amax())
        if seen.offset is not None:
            self._offset.add(rooted(seen.offset, seen.weights))

    def take(self, largest_K: Tensor) -> None:
        """Of inputs, and of what they can fall short of others that are no larger."""
        self._inputs.add(largest_K.unsqueeze(0))
        self._lost.add(2 * largest_K.unsqueeze(0))

    def grids(self, tokens: int, ranks: Ranks) -> tuple[Grid, Grid]:
        """Of the second moment, and of the error, which an output's Cauchy-Schwarz inequality bounds; of all ranks."""
        tokens = sum(ranks.gather(tokens))
        for largest in (self._inputs.absmax_K, self._lost.absmax_K, self._offset.absmax_K, self._longest):
            ranks.max_(largest)
        inputs_K, errors = self._inputs.absmax_K, self._lost.absmax_K
        if not self._by_inputs:
            errors = self._weight_NK.float().norm(dim=1) * self._longest + self._offset.absmax_K
        return Grid.within(inputs_K, inputs_K, tokens), Grid.within(errors, inputs_K, tokens)


def corrected(
    weight_NK: Tensor, stats: LayerStats, error: Tensor, strength: float, *, by_inputs: bool = False
) -> Tensor:
    """``W + strength · E[d xᵀ] (H + λ I)⁻¹``, float32.

    Args:
        error: ``E[d xᵀ]`` ``[N, K]``, or where ``by_inputs`` what ``W`` makes that of, ``[K, K]``.

    Raises:
        QuantizationError: inputs that are all zero.
    """
    order_K = torch.arange(weight_NK.shape[1], device=weight_NK.device)
    factor_KK = cholesky_factor(stats.hessian_KK, ridge(stats.hessian_KK, DAMPING), order_K)
    out_NK = weight_NK.to(torch.float32, copy=True)
    for start in range(0, len(out_NK), ROWS_AT_ONCE):
        part_NK = out_NK[start : start + ROWS_AT_ONCE]
        if by_inputs:
            with float32_products(error.device, exact=False):
                error_NK = part_NK @ error
        else:
            error_NK = error[start : start + ROWS_AT_ONCE].clone()
        part_NK.add_(solve(factor_KK, error_NK), alpha=strength)
    return out_NK


def without_bias(linear: Linear) -> Linear:
    """The linear layer for differences of inputs."""
    return replace(linear, bias_N=None)
