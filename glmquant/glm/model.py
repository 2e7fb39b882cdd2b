"""What export needs of a model."""

from typing import Protocol

from torch import Tensor

from glmquant.glm.block import Block, Linear
from glmquant.glm.config import GlmConfig


class ModelSource(Protocol):
    """A model whose weights load on demand, block by block: a checkpoint on disk, or weights in memory."""

    @property
    def config(self) -> GlmConfig: ...

    def block(self, layer: int) -> Block: ...

    def embedding(self) -> Tensor:
        """Token embeddings ``[V, D]`` of any float dtype."""
        ...

    def final_norm(self) -> Tensor:
        """Gain ``[D]`` of the last norm."""
        ...

    def lm_head(self) -> Linear: ...
