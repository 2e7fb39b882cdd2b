"""What a bundle cannot be made of, told from configuration, options and specs before a weight is read."""

from collections.abc import Mapping, Sequence

from glmquant.core.spec import QuantSpec
from glmquant.errors import ExportError
from glmquant.glm.config import GlmConfig
from glmquant.glm.groups import linear_groups, units
from glmquant.onnx_export.blocks import block_size
from glmquant.recipe.schema import ExportOptions

SMALLEST_BLOCK = 16
"""Of ``QMoE``."""

STANDARD_BITS = (4, 8)
"""Opset 23 has no narrower integers."""


def require_exportable(config: GlmConfig, options: ExportOptions, specs: Mapping[str, Sequence[QuantSpec]]) -> None:
    """Refuses a model that ``options`` cannot be met for.

    Args:
        specs: those each linear group is quantized by, or may be; none where it stays float.

    Raises:
        ExportError: a dimension that the profile's attention cannot run, a cache that a classifier does not have, or a
            spec that the profile has no operator for.
    """
    require_dimensions(config, options)
    if config.num_labels:
        refuse_cache(options)
    for unit in units(linear_groups(config)):
        for spec in specs.get(unit.name, ()):
            if unit.is_experts:
                expert_block(unit.name, [(spec, group.columns) for group in unit.groups[:2]])
            elif options.profile == "standard":
                require_standard(unit.name, spec)
            elif options.dynamic_int8:
                require_integer(unit.name, spec, unit.columns)


def require_dimensions(config: GlmConfig, options: ExportOptions) -> None:
    """Raises ExportError for a dimension that the profile's attention cannot run, or routed experts, which ``standard``
    has no operator for."""
    if options.profile == "standard":
        if config.experts is not None:
            raise without_experts(config)
        return
    for name, value in (("head_dim", config.head_dim), ("rotary_dim", config.rotary_dim)):
        if value % 16:
            raise ExportError(
                f"{name} is {value}",
                where=name,
                expected="a multiple of 16 (ONNX Runtime's GroupQueryAttention)",
                hint="use export.profile=standard" if config.experts is None else None,
            )


def without_experts(config: GlmConfig) -> ExportError:
    """The error for a model that this profile cannot write."""
    return ExportError(
        f"a {config.family} model has routed experts",
        where="export.profile",
        expected="ort: up to opset 28 plain ONNX has no operator of routed experts, and what others give would read "
        "whole matrices of experts for each token",
        hint="set export.profile=ort",
    )


def refuse_cache(options: ExportOptions) -> None:
    """Raises ExportError where a classifier is to have a quantized cache."""
    if options.kv_cache != "float":
        raise ExportError(
            f"kv_cache: {options.kv_cache} for a classifier",
            where="export.kv_cache",
            expected="float: a classifier reads each text once and keeps no cache",
        )


def expert_block(unit: str, matrices: Sequence[tuple[QuantSpec, int]]) -> int:
    """The one block of ``QMoE`` for the groups of an expert's linear layers; 0 for whole rows.

    A row of a single group repeats its scale over the other layer's blocks: on disk it is not told from a whole row.

    Args:
        matrices: spec and columns of each linear layer.

    Raises:
        ExportError: groups that the operator has no block for.
    """
    grouped = [block_size(spec, columns) for spec, columns in matrices if spec.num_groups(columns) > 1]
    size = max(grouped, default=0)
    if size and (any(columns % size for _, columns in matrices) or size < SMALLEST_BLOCK or size & (size - 1)):
        raise ExportError(
            f"{unit} have {' and '.join(str(columns) for _, columns in matrices)} columns in groups of {size}",
            where=unit,
            expected=f"groups of a power of two from {SMALLEST_BLOCK} on that divides the columns, or whole rows "
            "(QMoE of ONNX Runtime)",
            hint="quantize the experts with group_size: 32, 64 or 128, whichever divides the columns, or with -1",
        )
    return size


def require_standard(name: str, spec: QuantSpec) -> None:
    """Raises ExportError for bits that plain ONNX has no integers for."""
    if spec.bits not in STANDARD_BITS:
        raise ExportError(
            f"{name} has {spec.bits} bits",
            where=name,
            expected="4 or 8 bits: opset 23 has no narrower integers",
            hint="use export.profile=ort, or more bits",
        )


def require_integer(name: str, spec: QuantSpec, columns: int) -> None:
    """Raises ExportError for 8-bit codes whose scale or zero point is not the same along a whole row."""
    if spec.bits == 8 and not (spec.symmetric and spec.width(columns) >= columns):
        raise ExportError(
            f"{name} has {'symmetric' if spec.symmetric else 'asymmetric'} groups of {spec.width(columns)}",
            where="export.dynamic_int8",
            expected="8-bit linear layers with one scale a row: group_size: -1, symmetric: true",
            hint="quantize with such a spec, or export with export.dynamic_int8=false",
        )
