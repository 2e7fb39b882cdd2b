"""What a part of a block is: half of it, which reads the residual stream through a norm and adds to it.

A part is a chain of linear layers. It is cut where a linear layer's input appears, so that calibration can stop there:

    x0 = read(hidden)      x1 = between(0, linear0(x0), x0)      …      hidden + linear_n(x_n)

What stands between two linear layers may be wider than what the next one reads: it reads the first columns, and the
others are carried on. Routed experts, where a part has some, read what the first linear layer reads.

Everything that walks through blocks (forward passes, quantization, sensitivities, artifacts, forecasts, the ONNX graph)
works on this chain alone. A new kind of part declares its linear groups, its gains and what lies between them.

Shape suffixes: B batch, T tokens, D hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.equalization import equalize_norm
from glmquant.glm.linear import Linear
from glmquant.glm.parts.routing import RoutedExperts
from glmquant.glm.rotary import Rotary, rms_norm


@dataclass(frozen=True, eq=False)
class Context:
    """What a forward pass knows beside the activations.

    Attributes:
        rope: angles of the batch's positions.
        mask: boolean ``[B, 1, T, T]``; None where no token is padding that a real one could see.
        on_key_values: is shown the keys (rotated) and values ``[B, T, C, E]`` that a cache would hold.
    """

    config: GlmConfig
    rope: Rotary
    mask: Tensor | None = None
    on_key_values: Callable[[Tensor, Tensor], None] | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """The weights of one part.

    Attributes:
        kind: what they compute.
        linears: by their group's name within the part (``qkv_proj``), in the order data flows through them.
        gains: of norms ``[D]``, by module name within the layer (``input_layernorm``).
        experts: routed ones, beside the chain; None where there are none.
    """

    kind: "PartKind"
    linears: Mapping[str, Linear]
    gains: Mapping[str, Tensor]
    experts: RoutedExperts | None = None

    def with_linears(self, changed: Mapping[str, Linear]) -> "Part":
        """The part with some linear layers replaced; the order stays."""
        return replace(self, linears={name: changed.get(name, linear) for name, linear in self.linears.items()})

    def mapped(self, on_linear: Callable[[Linear], Linear], on_gain: Callable[[Tensor], Tensor]) -> "Part":
        """The part with each weight replaced, but for the router's."""
        return replace(
            self,
            linears={name: on_linear(linear) for name, linear in self.linears.items()},
            gains={name: on_gain(gain) for name, gain in self.gains.items()},
            experts=None if self.experts is None else self.experts.mapped(on_linear),
        )

    def to(self, device: torch.device) -> "Part":
        """The same part on a device."""
        moved = replace(self, experts=None).mapped(lambda linear: linear.to(device), lambda gain: gain.to(device))
        return replace(moved, experts=None if self.experts is None else self.experts.to(device))

    @property
    def has_output_norm(self) -> bool:
        return self.kind.output_norm in self.gains

    def read(self, hidden_BTD: Tensor, config: GlmConfig) -> Tensor:
        """What the first linear layer reads of the residual stream."""
        return rms_norm(hidden_BTD, self.gains[self.kind.input_norm], config.rms_norm_eps)

    def add(self, hidden_BTD: Tensor, output_BTD: Tensor, config: GlmConfig) -> Tensor:
        """The residual stream with the last linear layer's output added, behind a norm where there is one."""
        if self.has_output_norm:
            output_BTD = rms_norm(output_BTD, self.gains[self.kind.output_norm], config.rms_norm_eps)
        return hidden_BTD + output_BTD

    def forward(
        self,
        hidden_BTD: Tensor,
        context: Context,
        dtype: torch.dtype | None = None,
        on_input: Callable[[str, Tensor], None] | None = None,
    ) -> Tensor:
        """The residual stream after the part.

        Args:
            dtype: of the linear layers' inputs; None for the residual stream's own.
            on_input: is shown each linear layer's name and input.
        """
        x = self.read(hidden_BTD, context.config).to(dtype or hidden_BTD.dtype)
        return self.resume(self.with_experts_added(hidden_BTD, context.config), 0, x, context, on_input)

    def with_experts_added(self, hidden_BTD: Tensor, config: GlmConfig) -> Tensor:
        """The residual stream with what routed experts add, where there are some."""
        if self.experts is None:
            return hidden_BTD
        x_TD = self.read(hidden_BTD, config).flatten(0, -2)
        added_TD = self.experts.output(x_TD)
        return hidden_BTD + added_TD.view(hidden_BTD.shape).to(hidden_BTD.dtype)

    def seen(self, step: int, x: Tensor) -> Tensor:
        """Of what stands before linear layer ``step``, the columns that it reads."""
        name = list(self.linears)[step]
        return x[..., : self.linears[name].weight.shape[1]]

    def resume(
        self,
        hidden_BTD: Tensor,
        step: int,
        x: Tensor,
        context: Context,
        on_input: Callable[[str, Tensor], None] | None = None,
    ) -> Tensor:
        """As :meth:`forward`, from ``x``, what stands before linear layer number ``step``, on.

        ``hidden_BTD`` holds what routed experts add already.
        """
        names = list(self.linears)
        for number in range(step, len(names)):
            if on_input is not None:
                on_input(names[number], x)
            output = self.linears[names[number]](self.seen(number, x))
            x = self.kind.between(number, output, x, self, context) if number < len(names) - 1 else output
        return self.add(hidden_BTD, x, context.config)


class PartKind(ABC):
    """What parts of one kind compute; it holds no weights.

    Attributes:
        scope: module of the linear layers within the layer (``self_attn``).
        input_norm, output_norm: modules of the norms within the layer; the second one in ``glm4`` alone.
        mixes_tokens_after: number of the linear layer after which tokens meet; what follows it can be computed for some
            tokens alone. None where they never meet.
    """

    scope: ClassVar[str]
    input_norm: ClassVar[str]
    output_norm: ClassVar[str]
    mixes_tokens_after: ClassVar[int | None] = None

    @abstractmethod
    def groups(self, config: GlmConfig, layer: int) -> tuple[LinearGroup, ...]:
        """The linear groups of a layer, in the order data flows through them."""

    def gain_sizes(self, config: GlmConfig) -> dict[str, int]:
        """Modules of norms within the layer, and their sizes; those of the residual stream first and last."""
        sizes = {self.input_norm: config.hidden_size}
        return sizes | ({self.output_norm: config.hidden_size} if config.sandwich_norms else {})

    def width(self, step: int, config: GlmConfig, layer: int) -> int:
        """Columns of what stands before linear layer ``step``; more than that reads where something is carried on."""
        return self.groups(config, layer)[step].columns

    @abstractmethod
    def between(self, step: int, output: Tensor, x: Tensor, part: Part, context: Context) -> Tensor:
        """What stands before linear layer ``step + 1``, from the output of linear layer ``step`` and what stood before
        that."""

    @abstractmethod
    def graph(self, step: int, output: Any, part: Any, operators: Any, context: Any) -> Any:
        """What linear layer ``step + 1`` reads, in the ONNX graph; what is carried on waits in ``context.carried``.

        Args:
            output: an ``onnx_ir.Value``.
            part: a :class:`glmquant.onnx_export.weights.StoredPart`.
            operators: a :class:`glmquant.onnx_export.graph.Operators`, whose ``g`` adds nodes.
            context: a :class:`glmquant.onnx_export.graph.GraphContext`.
        """

    def exported(self, name: str, linear: Linear, config: GlmConfig) -> Linear:
        """The linear layer as its operator wants it: by default as it is."""
        return linear

    def equalize(self, part: Part, config: GlmConfig) -> Part:
        """The same function with columns of even size (:mod:`glmquant.glm.equalization`); weights are float32."""
        first = next(iter(part.linears))
        gain, linear = equalize_norm(part.gains[self.input_norm], part.linears[first])
        return replace(part.with_linears({first: linear}), gains={**part.gains, self.input_norm: gain})


class SparseKind(PartKind):
    """A kind of part with routed experts beside its chain."""

    def unit(self, layer: int) -> str:
        """What rules call all routed experts of a layer: ``layers.3.mlp.experts``."""
        return group_in(self.scope, layer, "experts")

    @abstractmethod
    def expert_groups(self, config: GlmConfig, layer: int, expert: int) -> tuple[LinearGroup, LinearGroup]:
        """The linear groups of one routed expert: ``gate_up_proj`` and ``down_proj``."""

    @abstractmethod
    def router_shapes(self, config: GlmConfig) -> dict[str, tuple[int, ...]]:
        """The router's float32 tensors within the layer, weight first."""

    @abstractmethod
    def within_expert(self, gate_up: Tensor) -> Tensor:
        """What an expert's ``down_proj`` reads, from the output of its ``gate_up_proj``."""


def group_in(scope: str, layer: int, name: str) -> str:
    """``layers.3.self_attn.qkv_proj``."""
    return f"layers.{layer}.{scope}.{name}"


def modules_in(scope: str, layer: int, names: Iterable[str]) -> tuple[str, ...]:
    """Canonical module names: ``model.layers.3.self_attn.q_proj``."""
    return tuple(f"model.layers.{layer}.{scope}.{name}" for name in names)
