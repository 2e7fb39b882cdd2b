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
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.exact_sum import Grid
from glmquant.core.packed_tensor import PackedTensor
from glmquant.core.pages import trim
from glmquant.core.qtensor import QuantTensor
from glmquant.core.ranks import ALONE, Ranks
from glmquant.core.stats import AbsmaxAccumulator, HessianAccumulator, LayerStats
from glmquant.glm.linear import Linear
from glmquant.glm.parts.routing import DOWN, GATE_UP, RoutedExperts
from glmquant.quantization.error_propagation import ALL_ROWS, LinearFit, Seen
from glmquant.quantization.linear_pass import GroupOutcome, quantize_linear
from glmquant.recipe.plan import GroupPlan, Plan
from glmquant.streaming.activations import Batch
from glmquant.streaming.experts import RoutedStream

SHARED_TOKENS: Final = 64
"""Also how many tokens an expert must meet not to be named as one that met few."""


def quantize_experts(
    experts: RoutedExperts,
    plan: Plan,
    stream: RoutedStream | None,
    reference: RoutedStream | None,
    ranks: Ranks = ALONE,
) -> tuple[RoutedExperts, GroupOutcome]:
    """The experts, quantized; what they compute is added to both residual streams.

    Args:
        stream: as quantized linear layers made it; None where no method needs samples.
        reference: as float ones did, where errors are propagated.
        ranks: who shares the experts, each with tokens of its own; the first one gets all of them, the others keep the
            float ones.
    """
    run, unit = _ExpertPass(experts, plan, stream, reference, ranks), experts.unit
    done = run.all_experts()
    if not ranks.is_first:
        return experts, GroupOutcome(unit, plan[unit])
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


@dataclass(frozen=True, eq=False)
class _Met:
    """What an expert meets, batch by batch: inputs ``[M, D]`` and the weights ``[M]`` of its outputs."""

    inputs: list[Tensor]
    float_inputs: list[Tensor]
    weights: list[Tensor]

    @staticmethod
    def joined(parts: "Sequence[_Met]", device: torch.device) -> "_Met":
        """Of all ranks, in their order, which is that of the batches."""
        return _Met(*([x.to(device) for part in parts for x in getattr(part, each.name)] for each in fields(_Met)))


@dataclass(frozen=True, eq=False)
class _Said:
    """What an expert makes of it."""

    outputs: list[Tensor]
    float_outputs: list[Tensor]

    def dealt(self, counts: Sequence[int]) -> "list[_Said]":
        """Back to the ranks, that have so many batches each."""
        stops = list(accumulate(counts))
        parts = [slice(stop - count, stop) for stop, count in zip(stops, counts, strict=True)]
        return [
            _Said([x.to(CPU) for x in self.outputs[part]], [x.to(CPU) for x in self.float_outputs[part]])
            for part in parts
        ]


class _ExpertPass:
    def __init__(
        self,
        experts: RoutedExperts,
        plan: Plan,
        stream: RoutedStream | None,
        reference: RoutedStream | None,
        ranks: Ranks,
    ) -> None:
        self._experts, self._ranks = experts, ranks
        self._plan, self._strength = plan[experts.unit], plan.recipe.fit.error_propagation
        self._stream, self._reference = stream, reference
        self._dtype = torch.float32 if stream is None else stream.stream.dtype
        self._shared = _shared_stats(stream, ranks) if stream is not None and self._plan.needs_hessian else None

    def all_experts(self) -> list[_Done]:
        """In their order, on the first rank; each rank's turn is one of as many experts as there are ranks."""
        count, step = self._experts.count, self._ranks.count
        return [done for start in range(0, count, step) for done in self._turn(range(start, min(start + step, count)))]

    def _turn(self, experts: Sequence[int]) -> list[_Done]:
        """Tokens go to the rank that has their expert, and come back as its outputs."""
        rows = [[] if self._stream is None else list(self._stream.rows(expert)) for expert in experts]
        wanted = [[] if self._reference is None else list(self._reference.rows(expert)) for expert in experts]
        met = [
            _Met([x for *_, x in here], [x for *_, x in there], [weights_M for _, _, weights_M, _ in here])
            for here, there in zip(rows, wanted, strict=True)
        ]
        if self._ranks.count == 1:
            done, said = self._quantized(experts[0], met[0])
            every_said, every_done = [said], [done]
        else:
            every_said, every_done = self._shared_out(experts, met)
        for here, there, said in zip(rows, wanted, every_said, strict=True):
            self._add(self._stream, here, said.outputs)
            self._add(self._reference, there, said.float_outputs)
        trim()  # each expert meets another number of tokens
        return every_done

    def _shared_out(self, experts: Sequence[int], met: Sequence[_Met]) -> tuple[list[_Said], list[_Done]]:
        ranks, nobody = self._ranks, [None] * (self._ranks.count - len(experts))
        came = ranks.exchange([*(_Met.joined([each], CPU) for each in met), *nobody])
        answers: list[_Said | None] = [None] * ranks.count
        done: _Done | None = None
        if ranks.rank < len(experts):
            parts = [part for part in came if part is not None]
            done, said = self._quantized(experts[ranks.rank], _Met.joined(parts, self._device))
            answers = list(said.dealt([len(part.inputs) for part in parts]))
            done = replace(done, linears={name: linear.to(CPU) for name, linear in done.linears.items()})
        said_here = [said for said in ranks.exchange(answers) if said is not None]
        finished = ranks.exchange([done, *[None] * (ranks.count - 1)])
        return said_here, [each for each in finished if each is not None]

    @property
    def _device(self) -> torch.device:
        return CPU if self._stream is None else self._stream.stream.store.device

    def _quantized(self, expert: int, met: _Met) -> tuple[_Done, _Said]:
        gate_up, down = (self._experts.load(expert, name) for name in (GATE_UP, DOWN))
        first, outcome = self._fitted(expert, GATE_UP, gate_up, met)
        inner = _Met(self._through(first, met.inputs), self._through(gate_up, met.float_inputs), met.weights)
        second, last_outcome = self._fitted(expert, DOWN, down, inner)
        said = _Said(self._projected(second, inner.inputs), self._projected(down, inner.float_inputs))
        linears = {GATE_UP: _packed(first), DOWN: _packed(second)}
        return _Done(linears, (outcome, last_outcome), sum(map(len, met.weights))), said

    def _through(self, gate_up: Linear, inputs: Sequence[Tensor]) -> list[Tensor]:
        project = gate_up.floating(self._dtype) if inputs else gate_up
        return [self._experts.inner(project(x)) for x in inputs]

    def _projected(self, down: Linear, inputs: Sequence[Tensor]) -> list[Tensor]:
        project = down.floating(self._dtype) if inputs else down
        return [project(x) for x in inputs]

    def _fitted(self, expert: int, name: str, linear: Linear, met: _Met) -> tuple[Linear, GroupOutcome]:
        fit = None
        if self._shared is not None:
            fit = _ExpertFit(linear, self._strength, self._shared if name == GATE_UP else None)
            for number, (x, weights_M) in enumerate(zip(met.inputs, met.weights, strict=True)):
                lost = met.float_inputs[number] - x if met.float_inputs else None
                fit.add(Seen(x, lost, weights=weights_M.square()))
        return quantize_linear(f"{self._experts.unit}.{expert}.{name}", linear, self._plan, fit, self._dtype)

    def _add(
        self,
        stream: RoutedStream | None,
        rows: Sequence[tuple[Batch, Tensor, Tensor, Tensor]],
        outputs: Sequence[Tensor],
    ) -> None:
        if stream is None:
            return
        for (batch, tokens_M, weights_M, _), output_MD in zip(rows, outputs, strict=True):
            stream.add(batch, tokens_M, output_MD.to(weights_M.device), weights_M)


class _ExpertFit(LinearFit):
    """As its base, with tokens that all experts share beside the expert's own.

    Args:
        shared: of what all tokens bring to this linear layer; None for noise of even size in every column.
    """

    def __init__(self, linear: Linear, strength: float, shared: LayerStats | None) -> None:
        super().__init__(linear, strength, by_inputs=True)
        self._shared = shared

    def result(self, weight_NK: Tensor, rows: slice = ALL_ROWS) -> tuple[Tensor, LayerStats]:
        if not self.num_tokens:
            return weight_NK[rows], self._with_shared(LayerStats(torch.zeros_like(self._prior(1.0)), 0))
        weight_NK, stats = super().result(weight_NK, rows)
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


def _shared_stats(stream: RoutedStream, ranks: Ranks) -> LayerStats:
    """Of what all experts read, over all tokens."""
    samples, largest = stream.stream, AbsmaxAccumulator(stream.stream.config.hidden_size, stream.stream.store.device)
    for batch in samples.batches:
        largest.add(stream.x.read(batch))
    ranks.max_(largest.absmax_K)
    grid = Grid.within(largest.absmax_K, largest.absmax_K, sum(ranks.gather(samples.num_tokens)))
    sums = HessianAccumulator(samples.config.hidden_size, samples.store.device, grid)
    for leaf in samples.leaves:
        for batch in leaf:
            sums.add(stream.x.read(batch))
        sums.end_leaf()
    return sums.result(ranks)


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
