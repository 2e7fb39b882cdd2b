"""The gated MLP (``GlmMLP`` of transformers): SwiGLU (arXiv:2002.05202, eq. 6) on stacked gate and up."""

from typing import Any

from torch import Tensor

from glmquant.core.elementwise import silu
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.equalization import column_factors, column_sizes, divide_rows, multiply_columns
from glmquant.glm.linear import Linear
from glmquant.glm.parts.base import Context, Part, PartKind, group_in, modules_in

GATE_UP, DOWN = "gate_up_proj", "down_proj"


class SwigluMlp(PartKind):
    """``down(silu(gate x) * up x)``."""

    scope = "mlp"
    input_norm = "post_attention_layernorm"
    output_norm = "post_mlp_layernorm"

    def groups(self, config: GlmConfig, layer: int) -> tuple[LinearGroup, ...]:
        hidden, inner = config.hidden_size, config.intermediate_size
        if not config.fuses_gate_up:
            return gated_groups(self.scope, layer, hidden, inner)
        fused, down = modules_in(self.scope, layer, (GATE_UP,)), modules_in(self.scope, layer, (DOWN,))
        halves = modules_in(self.scope, layer, ("gate_proj", "up_proj"))
        return (
            LinearGroup(group_in(self.scope, layer, GATE_UP), fused, (2 * inner,), hidden, split=halves),
            LinearGroup(group_in(self.scope, layer, DOWN), down, (hidden,), inner),
        )

    def between(self, step: int, output: Tensor, x: Tensor, part: Part, context: Context) -> Tensor:
        return swiglu(output)

    def graph(self, step: int, output: Any, part: Any, operators: Any, context: Any) -> Any:
        return operators.swiglu(output)

    def equalize(self, part: Part, config: GlmConfig) -> Part:
        return _up_to_down(super().equalize(part, config))


def gated_groups(
    scope: str, layer: int, hidden: int, inner: int, unit: str | None = None
) -> tuple[LinearGroup, LinearGroup]:
    """Of an MLP whose gate and up are apart."""
    halves, down = modules_in(scope, layer, ("gate_proj", "up_proj")), modules_in(scope, layer, (DOWN,))
    return (
        LinearGroup(group_in(scope, layer, GATE_UP), halves, (inner, inner), hidden, shared_unit=unit),
        LinearGroup(group_in(scope, layer, DOWN), down, (hidden,), inner, shared_unit=unit),
    )


def swiglu(gate_up: Tensor) -> Tensor:
    """The first half gates the second."""
    gated, up = gate_up.chunk(2, dim=-1)
    return silu(gated) * up


def _up_to_down(part: Part) -> Part:
    gate_up, down = equalize_inner(part.linears[GATE_UP], part.linears[DOWN])
    return part.with_linears({GATE_UP: gate_up, DOWN: down})


def equalize_inner(gate_up: Linear, down: Linear) -> tuple[Linear, Linear]:
    """Up rows divided, and the down columns that read them multiplied, by the same factors."""
    factors_K = column_factors(column_sizes(down.dense()))
    up = slice(down.weight.shape[1], None)
    return divide_rows(gate_up, up, factors_K), multiply_columns(down, factors_K)
