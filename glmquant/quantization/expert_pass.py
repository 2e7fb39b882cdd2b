"""Routed experts, quantized one by one while their tokens pass through them.

An expert is fitted to the tokens that the quantized model's router sends to it, each counted by the square of the
weight that its output will get. Beside them, all tokens of the layer count as ``SHARED_TOKENS`` for what its first
linear layer reads, and as much evenly spread noise for the second one: an expert that few tokens reach is rounded
with care for what the others read, one that none reaches is still quantized by a rule, and both are named in the
manifest. With error propagation the float stream meets the experts that the quantized one chose, or a token would
have no partner.

Shape suffixes: N output rows, K input columns, M tokens of one expert.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from glmquant.core.exact_sum import Grid
from glmquant.core.packed_tensor import PackedTensor
from glmquant.core.qtensor import QuantTensor
from glmquant.core.stats import AbsmaxAccumulator, HessianAccumulator, LayerStats
from glmquant.glm.linear import Linear
from glmquant.glm.parts.routing import DOWN, GATE_UP, RoutedExperts
from glmquant.quantization.error_propagation import LinearFit, Seen
from glmquant.quantization.linear_pass import GroupOutcome, quantize_linear
from glmquant.recipe.plan import GroupPlan, Plan
from glmquant.streaming.experts import RoutedStream

SHARED_TOKENS: Final = 64
"""Also how many tokens an expert must meet not to be named as one that met few."""


def quantize_experts(
    experts: RoutedExperts, plan: Plan, stream: RoutedStream | None, reference: RoutedStream | None
) -> tuple[RoutedExperts, GroupOutcome]:
    """The experts, quantized; what they compute is added to both residual streams.

    Args:
        stream: as quantized linear layers made it; None where no method needs samples.
        reference: as float ones did, where errors are propagated.
    """
    run, unit = _ExpertPass(experts, plan, stream, reference), experts.unit
    done = [run.quantize(expert) for expert in range(experts.count)]
    load = _keeper([expert.linears for expert in done])
    few = tuple(number for number, expert in enumerate(done) if expert.tokens < SHARED_TOKENS)
    outcome = _overall(unit, plan[unit], [outcome for expert in done for outcome in expert.outcomes])
    few = few if plan[unit].needs_hessian else ()
    return replace(experts, load=load), replace(outcome, few_tokens=few)


@dataclass(frozen=True, eq=False)
class _Done:
    linears: dict[str, Linear]
    outcomes: tuple[GroupOutcome, GroupOutcome]
    tokens: int


class _ExpertPass:
    def __init__(
        self, experts: RoutedExperts, plan: Plan, stream: RoutedStream | None, reference: RoutedStream | None
    ) -> None:
        self._experts = experts
        self._plan, self._strength = plan[experts.unit], plan.recipe.fit.error_propagation
        self._stream, self._reference = stream, reference
        self._dtype = torch.float32 if stream is None else stream.stream.dtype
        self._shared = _shared_stats(stream) if stream is not None and self._plan.needs_hessian else None

    def quantize(self, expert: int) -> _Done:
        gate_up, down = (self._experts.load(expert, name) for name in (GATE_UP, DOWN))
        rows = [] if self._stream is None else list(self._stream.rows(expert))
        wanted = [] if self._reference is None else list(self._reference.rows(expert))
        weights = [weights_M for _, _, weights_M, _ in rows]
        inputs = [x for *_, x in rows]
        float_inputs = [x for *_, x in wanted]
        first, outcome = self._fitted(expert, GATE_UP, gate_up, inputs, float_inputs, weights)
        inputs = self._through(first, inputs)
        float_inputs = self._through(gate_up, float_inputs)
        second, last_outcome = self._fitted(expert, DOWN, down, inputs, float_inputs, weights)
        self._add(self._stream, rows, second, inputs)
        self._add(self._reference, wanted, down, float_inputs)
        linears = {GATE_UP: _packed(first), DOWN: _packed(second)}
        return _Done(linears, (outcome, last_outcome), sum(map(len, weights)))

    def _through(self, gate_up: Linear, inputs: Sequence[Tensor]) -> list[Tensor]:
        project = gate_up.floating(self._dtype) if inputs else gate_up
        return [self._experts.inner(project(x)) for x in inputs]

    def _fitted(
        self,
        expert: int,
        name: str,
        linear: Linear,
        inputs: Sequence[Tensor],
        float_inputs: Sequence[Tensor],
        weights: Sequence[Tensor],
    ) -> tuple[Linear, GroupOutcome]:
        fit = None
        if self._shared is not None:
            fit = _ExpertFit(linear, self._strength, self._shared if name == GATE_UP else None)
            for number, (x, weights_M) in enumerate(zip(inputs, weights, strict=True)):
                lost = float_inputs[number] - x if float_inputs else None
                fit.add(Seen(x, lost, weights=weights_M.square()))
        return quantize_linear(f"{self._experts.unit}.{expert}.{name}", linear, self._plan, fit, self._dtype)

    def _add(
        self,
        stream: RoutedStream | None,
        rows: Sequence[tuple[object, Tensor, Tensor, Tensor]],
        down: Linear,
        inputs: Sequence[Tensor],
    ) -> None:
        if stream is None or not rows:
            return
        project = down.floating(self._dtype)
        for (batch, tokens_M, weights_M, _), x in zip(rows, inputs, strict=True):
            stream.add(batch, tokens_M, project(x), weights_M)  # type: ignore[arg-type]


class _ExpertFit(LinearFit):
    """As its base, with tokens that all experts share beside the expert's own.

    Args:
        shared: of what all tokens bring to this linear layer; None for noise of even size in every column.
    """

    def __init__(self, linear: Linear, strength: float, shared: LayerStats | None) -> None:
        super().__init__(linear, strength, by_inputs=True)
        self._shared = shared

    def result(self, weight_NK: Tensor) -> tuple[Tensor, LayerStats]:
        if not self.num_tokens:
            return weight_NK, self._with_shared(LayerStats(torch.zeros_like(self._prior(1.0)), 0))
        weight_NK, stats = super().result(weight_NK)
        return weight_NK, self._with_shared(stats)

    def _with_shared(self, stats: LayerStats) -> LayerStats:
        own = stats.num_tokens
        size = float(stats.hessian_KK.diagonal().mean()) or 1.0
        blended_KK = (stats.hessian_KK * own + self._prior(size) * SHARED_TOKENS) / (own + SHARED_TOKENS)
        return LayerStats(blended_KK, own + SHARED_TOKENS)

    def _prior(self, size: float) -> Tensor:
        """Mean squares of columns are ``size`` on average."""
        if self._shared is None:
            return size * torch.eye(self.columns, device=self.device)
        shared_KK = self._shared.hessian_KK
        return shared_KK * (size / max(float(shared_KK.diagonal().mean()), torch.finfo(torch.float32).tiny))


def _shared_stats(stream: RoutedStream) -> LayerStats:
    """Of what all experts read, over all tokens."""
    samples, largest = stream.stream, AbsmaxAccumulator(stream.stream.config.hidden_size, stream.stream.store.device)
    for batch in samples.batches:
        largest.add(stream.x.read(batch))
    grid = Grid.within(largest.absmax_K, largest.absmax_K, samples.num_tokens)
    sums = HessianAccumulator(samples.config.hidden_size, samples.store.device, grid)
    for leaf in samples.leaves:
        for batch in leaf:
            sums.add(stream.x.read(batch))
        sums.end_leaf()
    return sums.result()


def _packed(linear: Linear) -> Linear:
    weight = linear.weight
    return replace(linear, weight=PackedTensor.of(weight)) if isinstance(weight, QuantTensor) else linear


def _keeper(experts: Sequence[dict[str, Linear]]) -> Callable[[int, str], Linear]:
    return lambda expert, name: experts[expert][name]


def _overall(unit: str, plan: GroupPlan, outcomes: Sequence[GroupOutcome]) -> GroupOutcome:
    """Of all linear layers of the experts: means of their relative errors."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return GroupOutcome(
        unit,
        plan,
        mean([outcome.weight_error for outcome in outcomes]),
        mean([outcome.output_error for outcome in outcomes]),
        sum(outcome.seconds for outcome in outcomes),
    )
