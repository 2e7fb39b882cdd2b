"""What the tables hold: a row is a recipe, calibrated on so many samples."""

from dataclasses import dataclass, field
from typing import Any

SAMPLES, LENGTH = 32, 512
DAMPED = {"kind": "gptq", "damping": 0.1, "relative_damping": 0.5, "coordinate_descent": 3}
FIT = {"equalize": True, "error_propagation": 0.5, "token_weights": "relative"}
SCOPES = {"experts": "layers.*.mlp.experts", "all": "layers.*"}
"""Names of linear layers: routed experts alone, or all of the blocks."""


@dataclass(frozen=True)
class Row:
    """One quantization of the model.

    Attributes:
        recipe: keys of a recipe, dotted.
        shared_tokens: in place of :data:`glmquant.quantization.expert_pass.SHARED_TOKENS`; None for that.
        shipped: routing is measured through the exported bundle, too.
    """

    name: str
    recipe: dict[str, Any] = field(hash=False)
    samples: int = SAMPLES
    shared_tokens: float | None = None
    shipped: bool = True


def _rules(scope: str, bits: int, group: int, method: dict[str, Any]) -> dict[str, Any]:
    return {"rules": [{"match": SCOPES[scope], "spec": {"bits": bits, "group_size": group}, "method": method}]}


def rtn(scope: str, bits: int, group: int) -> Row:
    """Round to nearest, nothing else."""
    return Row(f"{scope}, {bits} bits, groups of {group}, RTN", _rules(scope, bits, group, {"kind": "rtn"}))


def gptq(scope: str, bits: int, group: int, **changes: Any) -> Row:
    """As the recipe int4-g128-gptq."""
    fit = {f"fit.{key}": value for key, value in FIT.items()}
    name = f"{scope}, {bits} bits, groups of {group}, GPTQ"
    return Row(name, _rules(scope, bits, group, DAMPED) | fit, **changes)


SIZES = ((8, 64), (4, 64), (4, 32), (2, 64), (2, 32))
PAIRS = tuple((rtn(scope, *size), gptq(scope, *size)) for scope in SCOPES for size in SIZES)
BY_LAYER = 64
"""Group size of the rows whose routing is shown layer by layer."""

NOTHING = 1e-9
"""Shared tokens, where there are to be none: an expert that no token reached is still rounded by the rule."""
SHARED = (NOTHING, 16, 64, 256, 1024)


def shared(samples: int, tokens: float) -> Row:
    row = gptq("experts", 4, 64)
    return Row(f"{row.name}, {samples} samples, {tokens:g} shared", row.recipe, samples, tokens, shipped=False)


SHRINKAGE = {samples: tuple(shared(samples, tokens) for tokens in SHARED) for samples in (1, 4, 16, 64)}
