"""Routed experts: which experts a token meets, and what they add (``Glm4MoeTopkRouter`` of transformers).

The router is that of DeepSeek-V3 (arXiv:2412.19437, §2.1.2): scores are sigmoids, a bias takes part in choosing alone,
the chosen scores are brought to a sum of 1 and scaled. It is float32 always: the bias of a published model spreads over
a hundredth of its size, which half precision would flatten.

Shape suffixes: T tokens, D hidden, X experts, M tokens of one expert, k experts of a token.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import linear

from glmquant.core.elementwise import sigmoid
from glmquant.core.matmul import float32_products
from glmquant.glm.linear import Linear

GATE_UP, DOWN = "gate_up_proj", "down_proj"
EXPERT_LINEARS: Final = (GATE_UP, DOWN)
SMALLEST_SUM: Final = 1e-20


@dataclass(frozen=True, eq=False)
class Routing:
    """Which tokens each expert meets.

    Attributes:
        tokens: numbers of tokens, those of the first expert first; int64 ``[T * k]``.
        weights: of the experts' outputs, in the same order; float32.
        starts: where each expert's tokens begin, and where the last one's end.
    """

    tokens: Tensor
    weights: Tensor
    starts: tuple[int, ...]

    def of(self, expert: int) -> tuple[Tensor, Tensor]:
        """Token numbers and weights ``[M]``."""
        part = slice(self.starts[expert], self.starts[expert + 1])
        return self.tokens[part], self.weights[part]


@dataclass(frozen=True, eq=False)
class Router:
    """Weights ``[X, D]`` and correction bias ``[X]``, both float32."""

    weight_XD: Tensor
    bias_X: Tensor
    per_token: int
    scaling: float

    def choose(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the chosen experts, int64 ``[T, k]``, and the weights of their outputs, float32 ``[T, k]``."""
        with float32_products(x_TD.device, exact=True):
            scores_TX = sigmoid(linear(x_TD.float(), self.weight_XD))
        chosen_Tk = (scores_TX + self.bias_X).topk(self.per_token, dim=-1, sorted=True).indices
        return chosen_Tk, self._weights(scores_TX.gather(1, chosen_Tk))

    def weigh(self, x_TD: Tensor, chosen_Tk: Tensor) -> Tensor:
        """The weights ``[T, k]`` of experts that were chosen by other inputs."""
        with float32_products(x_TD.device, exact=True):
            scores_TX = sigmoid(linear(x_TD.float(), self.weight_XD))
        return self._weights(scores_TX.gather(1, chosen_Tk))

    def _weights(self, scores_Tk: Tensor) -> Tensor:
        return scores_Tk / (scores_Tk.sum(-1, keepdim=True) + SMALLEST_SUM) * self.scaling

    def to(self, device: torch.device) -> "Router":
        return replace(self, weight_XD=self.weight_XD.to(device), bias_X=self.bias_X.to(device))


def by_expert(chosen_Tk: Tensor, weights_Tk: Tensor, count: int) -> Routing:
    """Tokens sorted by the experts they meet; within an expert they keep their order."""
    experts = chosen_Tk.flatten()
    order = experts.argsort(stable=True)
    sizes = experts.bincount(minlength=count).cumsum(0).tolist()
    return Routing(order // chosen_Tk.shape[1], weights_Tk.flatten()[order], (0, *sizes))


@dataclass(frozen=True, eq=False)
class RoutedExperts:
    """The experts of a layer. Their weights are read when they are asked for, and not kept.

    Attributes:
        unit: what rules call all of them: ``layers.3.mlp.experts``.
        load: gives a linear layer by the number of its expert and its name, ``gate_up_proj`` or ``down_proj``.
        inner: what lies between an expert's two linear layers.
    """

    unit: str
    router: Router
    count: int
    load: Callable[[int, str], Linear]
    inner: Callable[[Tensor], Tensor]

    def mapped(self, on_linear: Callable[[Linear], Linear]) -> "RoutedExperts":
        """The experts with each weight replaced as it is read."""
        load = self.load
        return replace(self, load=lambda expert, name: on_linear(load(expert, name)))

    def to(self, device: torch.device) -> "RoutedExperts":
        return replace(self.mapped(lambda each: each.to(device)), router=self.router.to(device))

    def output(self, x_TD: Tensor) -> Tensor:
        """What the experts add to each token, float32 ``[T, D]``."""
        out_TD = torch.zeros(x_TD.shape, device=x_TD.device)
        routing = by_expert(*self.router.choose(x_TD), self.count)
        for expert in range(self.count):
            tokens_M, weights_M = routing.of(expert)
            if len(tokens_M):
                inner_MI = self.inner(self.load(expert, GATE_UP)(x_TD[tokens_M]))
                output_MD = self.load(expert, DOWN)(inner_MI).float()
                out_TD.index_add_(0, tokens_M, output_MD * weights_M.unsqueeze(1))
        return out_TD
