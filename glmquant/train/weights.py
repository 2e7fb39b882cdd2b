"""All weights of a classifier in memory, some of them trainable.

Shape suffixes: B batch, T tokens, D hidden size, L labels, N output rows, K input columns, R rank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding
from torch.nn.functional import linear as product

from glmquant.data.sequences import Ids, padded
from glmquant.errors import TrainingError
from glmquant.glm.block import Block
from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.config import FloatDtype, GlmConfig
from glmquant.glm.linear import Linear
from glmquant.glm.model import ModelSource
from glmquant.glm.parts import Context
from glmquant.glm.rotary import rms_norm, rotary

ALPHA = 16.0


@dataclass(frozen=True, eq=False, kw_only=True)
class LoraLinear(Linear):
    """A frozen linear with a trainable addition of low rank: ``W x + (alpha / R) up down x`` (arXiv:2106.09685, §4.1).

    A library's adapters wrap ``torch.nn`` modules; the blocks here are functions over weights, and this is the one
    formula they need.
    """

    down_RK: Tensor
    up_NR: Tensor

    @property
    def scale(self) -> float:
        return ALPHA / len(self.down_RK)

    def __call__(self, x: Tensor) -> Tensor:
        added = product(product(x, self.down_RK.to(x.dtype)), self.up_NR.to(x.dtype))
        return super().__call__(x) + self.scale * added

    def merged(self) -> Linear:
        """The same function as one matrix."""
        with torch.no_grad():
            return Linear(self.dense() + self.scale * self.up_NR @ self.down_RK, self.bias_N)


class TrainableClassifier:
    """A backbone and its head; ``parameters`` are what is trained.

    A :class:`glmquant.glm.model.ModelSource` again once it is trained: its tensors are in the dtype the checkpoint is
    published in.
    """

    def __init__(self, config: GlmConfig, tensors: Sequence[Tensor], blocks: Sequence[Block]) -> None:
        self._config = config
        self._embedding_VD, self._norm_D, self._weight_LD, *bias = tensors
        self._bias_L = bias[0] if bias else None
        self._blocks = list(blocks)

    @classmethod
    def full(cls, backbone: ModelSource, head: ClassificationHead) -> "TrainableClassifier":
        """Every weight in float32, and trained."""
        blocks = [_trainable(backbone.block(layer)) for layer in range(backbone.config.num_hidden_layers)]
        tensors = [backbone.embedding(), backbone.final_norm(), *_head_tensors(head)]
        return cls(backbone.config, [_leaf(tensor) for tensor in tensors], blocks)

    @classmethod
    def lora(cls, backbone: ModelSource, head: ClassificationHead, rank: int, seed: int) -> "TrainableClassifier":
        """Every weight in float32 and frozen; additions to the blocks' linear layers, and the head, are trained."""
        generator = torch.Generator().manual_seed(seed)
        blocks = [
            _with_additions(backbone.block(layer), rank, generator)
            for layer in range(backbone.config.num_hidden_layers)
        ]
        trained = [_leaf(tensor) for tensor in _head_tensors(head)]
        return cls(backbone.config, [backbone.embedding(), backbone.final_norm(), *trained], blocks)

    @property
    def config(self) -> GlmConfig:
        return self._config

    def parameters(self) -> list[Tensor]:
        """In an order that does not change."""
        everything = [self._embedding_VD, self._norm_D, self._weight_LD]
        everything += [] if self._bias_L is None else [self._bias_L]
        everything += [tensor for block in self._blocks for tensor in _tensors(block)]
        return [tensor for tensor in everything if tensor.requires_grad]

    def logits(self, ids: Sequence[Ids]) -> Tensor:
        """float32 ``[B, L]``."""
        config = self._config
        rows_BT = torch.from_numpy(padded(ids, 0, side="right")[0])
        x_BTD = embedding(rows_BT, self._embedding_VD).float()
        context = Context(config, rotary(config, torch.arange(rows_BT.shape[1]).unsqueeze(0)))
        for block in self._blocks:
            x_BTD = block.forward(x_BTD, context)
        last_B = torch.tensor([len(sequence) - 1 for sequence in ids])
        pooled_BD = rms_norm(x_BTD[torch.arange(len(ids)), last_B], self._norm_D, config.rms_norm_eps)
        return product(pooled_BD, self._weight_LD, self._bias_L).float()

    def block(self, layer: int) -> Block:
        block = self._blocks[layer]
        merged = block.mapped(_merged, lambda gain: gain)
        return _cast(merged, self._config.float_dtype)

    def embedding(self) -> Tensor:
        return stored(self._embedding_VD, self._config.float_dtype)

    def final_norm(self) -> Tensor:
        return stored(self._norm_D, self._config.float_dtype)

    def head(self) -> Linear:
        """In float32."""
        return Linear(self._weight_LD, self._bias_L)

    def classification_head(self, labels: tuple[str, ...]) -> ClassificationHead:
        """In float32."""
        bias_L = None if self._bias_L is None else self._bias_L.detach().clone()
        return ClassificationHead(self._weight_LD.detach().clone(), bias_L, labels)


def stored(tensor: Tensor, dtype: FloatDtype) -> Tensor:
    """The tensor in the dtype a checkpoint is published in.

    Raises:
        TrainingError: a value that it cannot hold.
    """
    cast = tensor.detach().to(getattr(torch, dtype))
    if not torch.isfinite(cast).all():
        raise TrainingError(
            f"a trained weight of {tensor.abs().max().item():.3g} does not fit {dtype}",
            expected="finite weights",
            hint="train with a smaller train.learning_rate",
        )
    return cast


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().float().clone().requires_grad_()


def _head_tensors(head: ClassificationHead) -> list[Tensor]:
    return [head.weight_LD, *([] if head.bias_L is None else [head.bias_L])]


def _trainable(block: Block) -> Block:
    return block.mapped(lambda layer: Linear(_leaf(layer.dense()), _leaf_or_none(layer.bias_N)), _leaf)


def _leaf_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _leaf(tensor)


def _with_additions(block: Block, rank: int, generator: torch.Generator) -> Block:
    def added(layer: Linear) -> Linear:
        weight_NK = layer.dense()
        rows, columns = weight_NK.shape
        down_RK = torch.randn(rank, columns, generator=generator) / columns**0.5
        up_NR = torch.zeros(rows, rank)  # so that training starts from the model itself
        return LoraLinear(weight_NK, layer.bias_N, down_RK=down_RK.requires_grad_(), up_NR=up_NR.requires_grad_())

    return block.mapped(added, lambda gain: gain)


def _merged(layer: Linear) -> Linear:
    return layer.merged() if isinstance(layer, LoraLinear) else layer


def _cast(block: Block, dtype: FloatDtype) -> Block:
    def cast(layer: Linear) -> Linear:
        bias_N = None if layer.bias_N is None else stored(layer.bias_N, dtype)
        return Linear(stored(layer.dense(), dtype), bias_N)

    return block.mapped(cast, lambda gain: stored(gain, dtype))


def _tensors(block: Block) -> Iterator[Tensor]:
    """Every tensor of a block, in a fixed order."""
    for part in block.parts:
        yield part.gains[part.kind.input_norm]
        for linear in part.linears.values():
            if isinstance(linear, LoraLinear):
                yield from (linear.down_RK, linear.up_NR)
            elif isinstance(linear.weight, Tensor):
                yield linear.weight
                if linear.bias_N is not None:
                    yield linear.bias_N
    for part in block.parts:
        yield from (gain for name, gain in part.gains.items() if name != part.kind.input_norm)
