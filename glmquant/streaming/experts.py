"""Samples on their way through routed experts: every token is routed once, then each expert meets all of its tokens.

Expert by expert rather than batch by batch, so that an expert's weights are read once.

Shape suffixes: B batch, T tokens, D hidden, M tokens of one expert, k experts of a token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from glmquant.glm.parts import Part
from glmquant.glm.parts.routing import DOWN, GATE_UP, RoutedExperts, Routing, by_expert
from glmquant.streaming.activations import Activations, ActivationTensor, Batch


@dataclass(frozen=True, eq=False)
class RoutedStream:
    """A stream before routed experts.

    Attributes:
        x: what the experts read, ``[B, T, D]`` of each batch.
        chosen: numbers of each token's experts, ``[B * T, k]`` of each batch.
        routings: of each batch.
    """

    stream: Activations
    x: ActivationTensor
    chosen: tuple[Tensor, ...]
    routings: tuple[Routing, ...]

    def rows(self, expert: int) -> Iterator[tuple[Batch, Tensor, Tensor, Tensor]]:
        """Batch by batch where the expert has tokens: the batch, their numbers, weights ``[M]``, inputs ``[M, D]``."""
        for batch, routing in zip(self.stream.batches, self.routings, strict=True):
            tokens_M, weights_M = routing.of(expert)
            if len(tokens_M):
                yield batch, tokens_M, weights_M, self.x.read(batch).flatten(0, 1)[tokens_M]

    def num_tokens(self, expert: int) -> int:
        """Tokens that the expert meets."""
        return sum(len(routing.of(expert)[0]) for routing in self.routings)

    def add(self, batch: Batch, tokens_M: Tensor, output_MD: Tensor, weights_M: Tensor) -> None:
        """Adds an expert's output to the residual stream of its tokens."""
        hidden_BTD = self.stream.hidden.read(batch)
        hidden_BTD.flatten(0, 1).index_add_(0, tokens_M, output_MD.float() * weights_M.unsqueeze(1))
        self.stream.hidden.write(batch, hidden_BTD)


@contextmanager
def routed(part: Part, stream: Activations, chosen: Sequence[Tensor] | None = None) -> Iterator[RoutedStream]:
    """Routes every token of a stream; what the experts read is kept as long as the context lasts.

    Args:
        chosen: experts that another stream's tokens chose; the weights are this stream's own.
    """
    experts = part.experts
    assert experts is not None
    with stream.lend(stream.config.hidden_size) as x:
        choices, routings = [], []
        for number, batch in enumerate(stream.batches):
            x_BTD = part.read(stream.hidden.read(batch), stream.config)
            x.write(batch, x_BTD.to(stream.dtype))
            choice_Tk, weights_Tk = _choice(experts, x_BTD.flatten(0, 1), None if chosen is None else chosen[number])
            choices.append(choice_Tk)
            routings.append(by_expert(choice_Tk, weights_Tk, experts.count))
        yield RoutedStream(stream, x, tuple(choices), tuple(routings))


def _choice(experts: RoutedExperts, x_TD: Tensor, chosen_Tk: Tensor | None) -> tuple[Tensor, Tensor]:
    if chosen_Tk is None:
        return experts.router.choose(x_TD)
    return chosen_Tk, experts.router.weigh(x_TD, chosen_Tk)


def pass_through(part: Part, stream: RoutedStream) -> None:
    """Adds what every expert computes to the residual stream."""
    experts, dtype = part.experts, stream.stream.dtype
    assert experts is not None
    for expert in range(experts.count):
        if not stream.num_tokens(expert):
            continue
        gate_up, down = (experts.load(expert, name).floating(dtype) for name in (GATE_UP, DOWN))
        for batch, tokens_M, weights_M, x_MD in stream.rows(expert):
            stream.add(batch, tokens_M, down(experts.inner(gate_up(x_MD))), weights_M)
