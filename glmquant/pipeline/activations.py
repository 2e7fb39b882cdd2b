"""The hidden states of all calibration samples, on their way through the model.

Shape suffixes: S samples, L tokens of a sample, D hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from glmquant.errors import CalibrationError
from glmquant.glm.block import Rotary, rotary
from glmquant.glm.config import GlmConfig

TOKENS_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class Activations:
    """Hidden states before a block, and what every block needs to read them.

    Attributes:
        hidden_SLD: float32; a block's pass overwrites it.
        rope: angles of the sample's positions, the same for every sample, ``[1, L, R]``.
    """

    hidden_SLD: Tensor
    rope: Rotary

    def batches(self) -> Iterator[slice]:
        """Slices of samples that hold about ``TOKENS_AT_ONCE`` tokens each."""
        samples, length, _ = self.hidden_SLD.shape
        step = max(1, TOKENS_AT_ONCE // length)
        for start in range(0, samples, step):
            yield slice(start, min(start + step, samples))


def embed(tokens_SL: Tensor, embedding_VD: Tensor, config: GlmConfig) -> Activations:
    """The first block's inputs.

    Raises:
        CalibrationError: a token id outside the vocabulary.
    """
    if int(tokens_SL.min()) < 0 or int(tokens_SL.max()) >= config.vocab_size:
        raise CalibrationError(
            f"token ids span {int(tokens_SL.min())} to {int(tokens_SL.max())}",
            expected=f"0 to {config.vocab_size - 1}",
            fix="calibrate again with this checkpoint's own tokenizer",
        )
    positions_1L = torch.arange(tokens_SL.shape[1]).unsqueeze(0)
    return Activations(embedding_VD[tokens_SL].float(), rotary(config, positions_1L))
