"""The methods a recipe can name."""

from dataclasses import asdict, fields
from typing import Any

from glmquant.errors import RecipeError
from glmquant.methods.base import Method
from glmquant.methods.gptq import Gptq
from glmquant.methods.rtn import Rtn

METHODS: dict[str, type[Method]] = {"gptq": Gptq, "rtn": Rtn}


def method_from_dict(value: Any) -> Any:
    """A recipe's ``method: {kind: gptq, damping: 0.01}`` as the method itself; a method passes through.

    Raises:
        RecipeError: an unknown kind, or an option the method does not have.
    """
    if not isinstance(value, dict):
        return value
    options = dict(value)
    kind = options.pop("kind", None)
    if kind not in METHODS:
        raise RecipeError(f"unknown method kind {kind!r}", where="method.kind", expected=f"one of {sorted(METHODS)}")
    known = {field.name for field in fields(METHODS[kind])}  # type: ignore[arg-type]
    unknown = sorted(set(options) - known)
    if unknown:
        raise RecipeError(
            f"method {kind} has no option {unknown[0]!r}", where=f"method.{unknown[0]}", expected=f"one of {sorted(known)}"
        )
    return METHODS[kind](**options)


def method_to_dict(method: Method) -> dict[str, Any]:
    """The inverse of :func:`method_from_dict`."""
    return {"kind": method.kind, **asdict(method)}  # type: ignore[call-overload]
