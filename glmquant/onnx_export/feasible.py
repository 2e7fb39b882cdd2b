"""What a bundle cannot be made of, told from configuration, options and specs before a weight is read."""

from collections.abc import Mapping, Sequence

from glmquant.core.spec import QuantSpec
from glmquant.errors import ExportError
from glmquant.glm.config import GlmConfig
from glmquant.glm.groups import linear_groups
from glmquant.recipe.schema import ExportOptions

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
    for group in linear_groups(config):
        for spec in specs.get(group.name, ()):
            if options.profile == "standard":
                require_standard(group.name, spec)
            elif options.dynamic_int8:
                require_integer(group.name, spec, group.columns)


def require_dimensions(config: GlmConfig, options: ExportOptions) -> None:
    """Raises ExportError for a dimension that the profile's attention cannot run."""
    if options.profile == "standard":
        return
    for name, value in (("head_dim", config.head_dim), ("rotary_dim", config.rotary_dim)):
        if value % 16:
            raise ExportError(
                f"{name} is {value}",
                where=name,
                expected="a multiple of 16 (ONNX Runtime's GroupQueryAttention)",
                hint="use export.profile=standard",
            )


def refuse_cache(options: ExportOptions) -> None:
    """Raises ExportError where a classifier is to have a quantized cache."""
    if options.kv_cache != "float":
        raise ExportError(
            f"kv_cache: {options.kv_cache} for a classifier",
            where="export.kv_cache",
            expected="float: a classifier reads each text once and keeps no cache",
        )


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
