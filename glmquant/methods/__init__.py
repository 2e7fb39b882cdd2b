"""Quantization methods, one a file: a weight and statistics of its inputs in, a :class:`QuantTensor` out."""

from glmquant.methods.base import Method
from glmquant.methods.gptq import Gptq
from glmquant.methods.registry import METHODS, register_method
from glmquant.methods.rtn import Rtn

__all__ = ["METHODS", "Gptq", "Method", "Rtn", "register_method"]
