"""Holding a method that is somebody's own to what :class:`glmquant.methods.base.Method` says of it.

Shape suffixes: N output rows, K input columns, T tokens.
"""

from typing import Final

import torch
from torch import Tensor

from glmquant.core.qtensor import QuantTensor, storable
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import LayerStats
from glmquant.errors import GlmQuantError, QuantizationError
from glmquant.methods.base import Method, takes_rows
from glmquant.methods.registry import PROTOCOL, is_own

TRIAL_ROWS: Final = 8
LEAST_COLUMNS, MOST_COLUMNS = 64, 1024


def quantized(method: Method, weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor:
    """What the method makes of the weight; an error of its own code, or a result that is none, is told as the method's.

    Raises:
        QuantizationError: the method fails, or what it gives cannot be stored.
    """
    if not is_own(method):
        return method.quantize(weight_NK, spec, stats)
    try:
        result = method.quantize(weight_NK, spec, stats)
    except (GlmQuantError, MemoryError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the method's own code
        raise _broken(method, f"fails: {type(error).__name__}: {error}") from error
    problem = _wrong(result, weight_NK, spec)
    if problem is not None:
        raise _broken(method, f"gives {problem}")
    return result


def require_kept(method: Method, spec: QuantSpec) -> None:
    """Tries a method that is somebody's own on a small matrix, so that what is wrong is told before a model is read.

    Raises:
        QuantizationError: it fails, or gives no quantized tensor of the weight's shape and ``spec``; it gives other
            codes the second time; or it says that it takes rows one by one, and a row's codes depend on other rows.
    """
    if not is_own(method):
        return
    weight_NK, stats = _trial(spec)
    given = stats if method.needs_hessian else None
    whole = quantized(method, weight_NK, spec, given)
    if not _same(whole, quantized(method, weight_NK, spec, given)):
        raise _broken(
            method,
            "gives other codes for the same weight the second time",
            "draw from torch.Generator().manual_seed(seed), with the seed an option",
        )
    halves = ((0, TRIAL_ROWS // 2), (TRIAL_ROWS // 2, TRIAL_ROWS)) if takes_rows(method) else ()
    parts = [(whole.rows(*part), quantized(method, weight_NK[slice(*part)], spec, given)) for part in halves]
    if not all(_same(one, other) for one, other in parts):
        raise _broken(
            method,
            "gives a row other codes when it gets fewer rows",
            "declare row_by_row: ClassVar[bool] = False in its class",
        )


def _trial(spec: QuantSpec) -> tuple[Tensor, LayerStats]:
    """A weight of two groups a row where that is not too wide, and inputs that are correlated."""
    columns = min(max(LEAST_COLUMNS, 2 * spec.group_size), MOST_COLUMNS)
    generator = torch.Generator().manual_seed(0)
    weight_NK = torch.randn(TRIAL_ROWS, columns, generator=generator)
    x_TK = torch.randn(2 * columns, columns, generator=generator) + torch.randn(2 * columns, 1, generator=generator)
    return weight_NK, LayerStats(x_TK.T @ x_TK / len(x_TK), len(x_TK))


def _wrong(result: object, weight_NK: Tensor, spec: QuantSpec) -> str | None:  # noqa: PLR0911
    if not isinstance(result, QuantTensor):
        return f"{type(result).__name__}, no QuantTensor"
    if result.spec != spec:
        return f"a tensor of {result.spec}, not of {spec}"
    if result.shape != tuple(weight_NK.shape):
        return f"a tensor of shape {result.shape} for a weight of shape {tuple(weight_NK.shape)}"
    if result.codes_NK.device != weight_NK.device:
        return f"a tensor on {result.codes_NK.device}, where the weight is on {weight_NK.device}"
    if max(int(result.codes_NK.max()), int(result.zeros_NG.max())) > spec.max_code:
        return f"codes or zero points above {spec.max_code}, the largest of {spec.bits} bits"
    if spec.symmetric and not bool((result.zeros_NG == spec.middle).all()):
        return f"zero points other than {spec.middle} for a symmetric spec"
    if not torch.equal(storable(result.scales_NG), result.scales_NG):
        return "scales that float16 cannot hold: range_grid and search_grid of glmquant.methods.grid give such"
    return None


def _same(one: QuantTensor, other: QuantTensor) -> bool:
    return (
        torch.equal(one.codes_NK, other.codes_NK)
        and torch.equal(one.scales_NG, other.scales_NG)
        and torch.equal(one.zeros_NG, other.zeros_NG)
    )


def _broken(method: Method, how: str, hint: str | None = None) -> QuantizationError:
    kind = type(method)
    return QuantizationError(
        f"the method {method.kind!r} {how}",
        where=f"{kind.__module__}.{kind.__qualname__}",
        expected=PROTOCOL,
        hint=hint,
    )
