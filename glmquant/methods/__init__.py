"""Quantisation methods, one a file: a weight and statistics of its inputs in, a :class:`QuantTensor` out."""

from glmquant.methods.base import Method
from glmquant.methods.gptq import Gptq
from glmquant.methods.registry import METHODS, method_from_dict, method_to_dict
from glmquant.methods.rtn import Rtn

__all__ = ["METHODS", "Gptq", "Method", "Rtn", "method_from_dict", "method_to_dict"]
