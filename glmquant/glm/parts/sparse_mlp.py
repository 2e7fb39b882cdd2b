"""An MLP with routed experts beside shared ones (``Glm4MoeMoE`` of transformers; DeepSeekMoE, arXiv:2401.06066, §3).

Shared experts are one gated MLP that every token meets: the part's chain. Routed experts read the same norm and add to
the residual stream before the chain does.
"""

from dataclasses import replace
from typing import Any, Final

from torch import Tensor

from glmquant.core.memo import last_value
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.linear import Linear
from glmquant.glm.parts.base import Context, Part, SparseKind
from glmquant.glm.parts.mlp import equalize_inner, gated_groups, swiglu
from glmquant.glm.parts.routing import DOWN, GATE_UP, RoutedExperts

SHARED: Final = "shared_experts"
ROUTER_WEIGHT, ROUTER_BIAS = "mlp.gate.weight", "mlp.gate.e_score_correction_bias"


class SparseMlp(SparseKind):
    """``shared(x) + Σ weight_e · expert_e(x)`` over the chosen experts; each is ``down(silu(gate x) * up x)``."""

    scope = "mlp"
    input_norm = "post_attention_layernorm"
    output_norm = "post_mlp_layernorm"

    def groups(self, config: GlmConfig, layer: int) -> tuple[LinearGroup, ...]:
        assert config.experts is not None
        inner = config.experts.intermediate_size * config.experts.shared
        return gated_groups(f"{self.scope}.{SHARED}", layer, config.hidden_size, inner)

    def expert_groups(self, config: GlmConfig, layer: int, expert: int) -> tuple[LinearGroup, LinearGroup]:
        assert config.experts is not None
        scope, inner = f"{self.scope}.experts.{expert}", config.experts.intermediate_size
        return gated_groups(scope, layer, config.hidden_size, inner, self.unit(layer))

    def router_shapes(self, config: GlmConfig) -> dict[str, tuple[int, ...]]:
        assert config.experts is not None
        return {ROUTER_WEIGHT: (config.experts.count, config.hidden_size), ROUTER_BIAS: (config.experts.count,)}

    def within_expert(self, gate_up: Tensor) -> Tensor:
        return swiglu(gate_up)

    def between(self, step: int, output: Tensor, x: Tensor, part: Part, context: Context) -> Tensor:
        return swiglu(output)

    def graph(self, step: int, output: Any, part: Any, operators: Any, context: Any) -> Any:
        return operators.swiglu(output)

    def equalize(self, part: Part, config: GlmConfig) -> Part:
        """Within each expert alone: the norm is read by all of them and by the router, so its gain stays."""
        assert part.experts is not None
        gate_up, down = f"{SHARED}.{GATE_UP}", f"{SHARED}.{DOWN}"
        evened = equalize_inner(part.linears[gate_up], part.linears[down])
        shared = part.with_linears(dict(zip((gate_up, down), evened, strict=True)))
        return replace(shared, experts=_equalized(part.experts))


def _equalized(experts: RoutedExperts) -> RoutedExperts:
    """Each expert evened as it is read: both of its linear layers are, once where they are wanted in turn."""

    def pair(expert: int) -> dict[str, Linear]:
        gate_up, down = (experts.load(expert, name) for name in (GATE_UP, DOWN))
        return dict(zip((GATE_UP, DOWN), equalize_inner(gate_up, down), strict=True))

    kept = last_value(pair)
    return replace(experts, load=lambda expert, name: kept(expert)[name])
