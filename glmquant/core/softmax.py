"""Softmax and log-sum-exp over the last axis, in float64.

``scipy.special`` has both, but importing it costs 0.3 s and 25 MB, in commands that otherwise start without scipy
(``generate``, ``chat``, ``classify``).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities, float64, of the logits' shape; differences from the largest are taken in the logits' own dtype."""
    weights = _weights(logits)
    probabilities: NDArray[np.float64] = weights / weights.sum(-1, keepdims=True)
    return probabilities


def logsumexp(logits: Floats) -> NDArray[np.float64]:
    """``log(sum(exp(logits)))``, float64; a logit less this is its log-probability."""
    result: NDArray[np.float64] = np.log(_weights(logits).sum(-1)) + logits.max(-1)
    return result


def _weights(logits: Floats) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp((logits - logits.max(-1, keepdims=True)).astype(np.float64))
    return weights
