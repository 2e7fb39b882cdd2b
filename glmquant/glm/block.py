"""One GLM block as plain functions over weights: an attention part and an MLP part.

Own functions rather than transformers' modules: they import in no time, hold one block, and let calibration stop
between linear layers. Tests hold them to transformers' ``Glm`` and ``Glm4`` and to the publisher's own numbers.

Shape suffixes: B batch, T tokens, D hidden.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from glmquant.glm.config import GlmConfig
from glmquant.glm.linear import Linear
from glmquant.glm.parts import Context, Part


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of one block."""

    attention: Part
    mlp: Part

    @property
    def parts(self) -> tuple[Part, Part]:
        return self.attention, self.mlp

    def linears(self) -> dict[str, Linear]:
        """Every linear layer by its group's name within the layer (``self_attn.qkv_proj``), as data flows."""
        return {f"{part.kind.scope}.{name}": linear for part in self.parts for name, linear in part.linears.items()}

    def with_linears(self, changed: Mapping[str, Linear]) -> "Block":
        """The block with some linear layers replaced; names as :meth:`linears` has them."""

        def of(part: Part) -> Part:
            names = {name: f"{part.kind.scope}.{name}" for name in part.linears}
            return part.with_linears({name: changed[full] for name, full in names.items() if full in changed})

        return Block(of(self.attention), of(self.mlp))

    def mapped(self, on_linear: Callable[[Linear], Linear], on_gain: Callable[[Tensor], Tensor]) -> "Block":
        """The block with each weight replaced."""
        return Block(self.attention.mapped(on_linear, on_gain), self.mlp.mapped(on_linear, on_gain))

    def floating(self, dtype: torch.dtype = torch.float32) -> "Block":
        """The same block with its linear layers' weights as float tensors, for repeated use."""
        return self.mapped(lambda linear: linear.floating(dtype), lambda gain: gain)

    def to(self, device: torch.device) -> "Block":
        """The same block on a device."""
        return Block(self.attention.to(device), self.mlp.to(device))

    def equalized(self, config: GlmConfig) -> "Block":
        """The same function with channels of even size (:mod:`glmquant.glm.equalization`).

        Weights are float32; gains keep their dtype. The block must be float.
        """
        floating = self.floating()
        return Block(*(part.kind.equalize(part, config) for part in floating.parts))

    def forward(self, hidden_BTD: Tensor, context: Context) -> Tensor:
        """The residual stream after the block."""
        for part in self.parts:
            hidden_BTD = part.forward(hidden_BTD, context)
        return hidden_BTD
