"""A linear layer, float or quantized."""

from dataclasses import dataclass

import torch
from torch import Tensor

from glmquant.core.matmul import project
from glmquant.core.packed_tensor import PackedTensor
from glmquant.core.qtensor import QuantMatrix, QuantTensor


@dataclass(frozen=True, eq=False)
class Linear:
    """``y = x Wᵀ + b``: ``weight`` is ``[N, K]``, ``bias_N`` may be absent.

    A quantized weight may have its columns in another order than the inputs (GPTQ's ``desc_act``): column ``k`` then
    meets input ``order_K[k]``.
    """

    weight: Tensor | QuantMatrix
    bias_N: Tensor | None = None
    order_K: Tensor | None = None

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight as a float tensor ``[N, K]``, its columns in the order of the inputs."""
        weight = self.weight
        weight_NK = weight.to(dtype) if isinstance(weight, Tensor) else _whole(weight).dequantize(dtype)
        return weight_NK if self.order_K is None else weight_NK[:, self.order_K.argsort()]

    def floating(self, dtype: torch.dtype = torch.float32) -> "Linear":
        """The same layer with its weight as a float tensor, for repeated use."""
        return Linear(self.dense(dtype), self.bias_N)

    def to(self, device: torch.device) -> "Linear":
        """The same layer on a device: itself where it is there."""
        weight = self.weight if isinstance(self.weight, Tensor | PackedTensor) else _whole(self.weight)
        return Linear(
            weight.to(device),
            None if self.bias_N is None else self.bias_N.to(device),
            None if self.order_K is None else self.order_K.to(device),
        )

    def reordered(self, order_N: Tensor) -> "Linear":
        """The layer with its outputs in another order."""
        weight = self.weight
        whole = weight if isinstance(weight, Tensor) else _whole(weight)
        bias_N = None if self.bias_N is None else self.bias_N[order_N]
        return Linear(whole[order_N] if isinstance(whole, Tensor) else whole.take(order_N), bias_N, self.order_K)

    def rows(self, part: slice) -> "Linear":
        """The layer that gives these outputs alone."""
        weight = self.weight
        some = weight[part] if isinstance(weight, Tensor) else weight.rows(part.start, part.stop)
        return Linear(some, None if self.bias_N is None else self.bias_N[part], self.order_K)

    def __call__(self, x: Tensor) -> Tensor:
        return project(x, self.dense(x.dtype), None if self.bias_N is None else self.bias_N.to(x.dtype))


def _whole(weight: QuantMatrix) -> QuantTensor:
    return weight.rows(0, weight.shape[0])
