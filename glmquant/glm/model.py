"""A model whose weights load on demand."""

from typing import Protocol

from torch import Tensor

from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.linear import Linear


class ModelSource(Protocol):
    """A model, block by block: a checkpoint on disk, one that is quantized on the fly, or weights in memory."""

    @property
    def config(self) -> GlmConfig: ...

    def embedding(self) -> Tensor:
        """Token embeddings ``[V, D]`` of any float dtype."""
        ...

    def block(self, layer: int) -> Block: ...

    def final_norm(self) -> Tensor:
        """Gain ``[D]`` of the last norm."""
        ...

    def head(self) -> Linear:
        """``lm_head`` ``[V, D]``, or a classifier's head ``[labels, D]``."""
        ...
