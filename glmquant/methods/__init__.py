"""Quantization methods, one a file: a weight and statistics of its inputs in, a :class:`QuantTensor` out."""

from glmquant.methods.base import Method
from glmquant.methods.gptq import Gptq
from glmquant.methods.rtn import Rtn

METHODS: dict[str, type[Method]] = {method.kind: method for method in (Gptq, Rtn)}
"""The methods a recipe can name. A method of one's own joins by being put in here."""

__all__ = ["METHODS", "Gptq", "Method", "Rtn"]
