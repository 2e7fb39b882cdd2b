"""How large a recipe's bundle will be, and what running it takes, from shapes alone."""

from dataclasses import dataclass
from typing import Final

from glmquant.core.spec import QuantSpec
from glmquant.glm.config import LinearGroup
from glmquant.recipe.plan import Plan

BLOCK: Final = 128
"""Of ONNX Runtime's operators, for rows with a single scale."""

FLOAT_BYTES: Final = {"float32": 4, "float16": 2}
CACHE_BITS: Final = {"int8": 8, "int4": 4}
CONTEXT: Final = 4096

LOADED: Final = 1.25
"""Most memory over the files' bytes, as ONNX Runtime packs them while it loads (benchmarks/decode: 1.23)."""

LOADED_EXPERTS: Final = 1.05
"""The same of routed experts, which it packs one tensor at a time (docs/mixture-of-experts.md: 0.95 seen)."""


@dataclass(frozen=True)
class BundleForecast:
    """A bundle before it is written.

    Attributes:
        num_bytes: of graph and weights.
        cache_bytes: of keys and values, for each token of each sequence.
        memory_bytes: to run it with one sequence of ``context`` tokens.
    """

    num_bytes: int
    cache_bytes: int
    memory_bytes: int
    context: int


def bundle_forecast(plan: Plan) -> BundleForecast:
    """Of what ``export`` makes by the plan, allocations by their rules' own specs."""
    config, options = plan.config, plan.recipe.export
    width = FLOAT_BYTES[options.dtype]
    experts, others = 0, 0
    for unit in plan.units:
        spec = plan[unit.name].spec
        size = sum(_linear_bytes(group, spec, width) for group in unit.groups)
        experts, others = (experts + size, others) if unit.is_experts else (experts, others + size)
    table = LinearGroup("embed_tokens", (), (config.vocab_size,), config.hidden_size)
    positions = min(options.max_length, config.max_position_embeddings)
    others += _linear_bytes(table, options.embedding, width) + positions * config.rotary_dim * width
    heads = 0 if config.num_labels else config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim
    cache = heads * CACHE_BITS.get(options.kv_cache, 8 * width) // 8
    context = min(CONTEXT, positions)
    memory = int(LOADED * others + LOADED_EXPERTS * experts) + cache * context
    return BundleForecast(experts + others, cache, memory, context)


def _linear_bytes(group: LinearGroup, spec: QuantSpec | None, width: int) -> int:
    if spec is None:
        return group.num_weights * width
    groups = spec.num_groups(group.columns)
    blocks = group.rows * (groups if groups > 1 else -(-group.columns // BLOCK))
    zeros = 0 if spec.symmetric else blocks * spec.bits // 8
    return group.num_weights * spec.bits // 8 + blocks * width + zeros
