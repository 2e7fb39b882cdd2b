"""All weights of a classifier in memory, some of them trainable.

Shape suffixes: B batch, T tokens, D hidden size, L labels, N output rows, K input columns, R rank.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from glmquant.data.sequences import Ids
from glmquant.errors import TrainingError
from glmquant.glm.block import Block, Linear, block_forward, rms_norm, rotary
from glmquant.glm.classifier import Backbone, ClassificationHead
from glmquant.glm.config import FloatDtype, GlmConfig
from glmquant.train.features import last_tokens, right_padded

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
        added = linear(linear(x, self.down_RK.to(x.dtype)), self.up_NR.to(x.dtype))
        return super().__call__(x) + self.scale * added

    def merged(self) -> Linear:
        """The same function as one matrix."""
        with torch.no_grad():
            return Linear(self.dense() + self.scale * self.up_NR @ self.down_RK, self.bias_N)


class TrainableClassifier:
    """A backbone and its head; ``parameters`` are what is trained.

    A :class:`glmquant.glm.classifier.Backbone` again once it is trained: its tensors are in the dtype the checkpoint is
    published in.
    """

    def __init__(self, config: GlmConfig, tensors: Sequence[Tensor], blocks: Sequence[Block]) -> None:
        self._config = config
        self._embedding_VD, self._norm_D, self._weight_LD, *bias = tensors
        self._bias_L = bias[0] if bias else None
        self._blocks = list(blocks)

    @classmethod
    def full(cls, backbone: Backbone, head: ClassificationHead) -> "TrainableClassifier":
        """Every weight in float32, and trained."""
        blocks = [_trainable(backbone.block(layer)) for layer in range(backbone.config.num_hidden_layers)]
        tensors = [backbone.embedding(), backbone.final_norm(), *_head_tensors(head)]
        return cls(backbone.config, [_leaf(tensor) for tensor in tensors], blocks)

    @classmethod
    def lora(cls, backbone: Backbone, head: ClassificationHead, rank: int, seed: int) -> "TrainableClassifier":
        """Every weight in float32 and frozen; additions to the blocks' linears, and the head, are trained."""
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
        rows_BT = right_padded(ids, config.vocab_size)
        x_BTD = embedding(rows_BT, self._embedding_VD).float()
        rope = rotary(config, torch.arange(rows_BT.shape[1]).unsqueeze(0))
        for block in self._blocks:
            x_BTD = block_forward(x_BTD, block, config, rope)
        pooled_BD = rms_norm(last_tokens(x_BTD, [len(sequence) for sequence in ids]), self._norm_D, config.rms_norm_eps)
        return linear(pooled_BD, self._weight_LD, self._bias_L).float()

    def block(self, layer: int) -> Block:
        block = self._blocks[layer]
        merged = _mapped(block, _merged, lambda gain: gain)
        return _cast(merged, self._config.float_dtype)

    def embedding(self) -> Tensor:
        return stored(self._embedding_VD, self._config.float_dtype)

    def final_norm(self) -> Tensor:
        return stored(self._norm_D, self._config.float_dtype)

    def head(self, labels: tuple[str, ...]) -> ClassificationHead:
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
    return _mapped(block, lambda layer: Linear(_leaf(layer.dense()), _leaf_or_none(layer.bias_N)), _leaf)


def _leaf_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _leaf(tensor)


def _with_additions(block: Block, rank: int, generator: torch.Generator) -> Block:
    def added(layer: Linear) -> Linear:
        weight_NK = layer.dense()
        rows, columns = weight_NK.shape
        down_RK = torch.randn(rank, columns, generator=generator) / columns**0.5
        up_NR = torch.zeros(rows, rank)  # so that training starts from the model itself
        return LoraLinear(weight_NK, layer.bias_N, down_RK=down_RK.requires_grad_(), up_NR=up_NR.requires_grad_())

    return _mapped(block, added, lambda gain: gain)


def _merged(layer: Linear) -> Linear:
    return layer.merged() if isinstance(layer, LoraLinear) else layer


def _cast(block: Block, dtype: FloatDtype) -> Block:
    def cast(layer: Linear) -> Linear:
        bias_N = None if layer.bias_N is None else stored(layer.bias_N, dtype)
        return Linear(stored(layer.dense(), dtype), bias_N)

    return _mapped(block, cast, lambda gain: stored(gain, dtype))


def _mapped(block: Block, linear_map: Callable[[Linear], Linear], gain_map: Callable[[Tensor], Tensor]) -> Block:
    """The block with its linears and its gains replaced."""
    parts: dict[str, Linear | Tensor] = {}
    for field in fields(Block):
        value: Linear | Tensor | None = getattr(block, field.name)
        if isinstance(value, Linear):
            parts[field.name] = linear_map(value)
        elif value is not None:
            parts[field.name] = gain_map(value)
    return replace(block, **parts)  # type: ignore[arg-type]


def _tensors(block: Block) -> Iterator[Tensor]:
    """Every tensor of a block, in the order of its fields."""
    for field in fields(Block):
        value: Linear | Tensor | None = getattr(block, field.name)
        if isinstance(value, LoraLinear):
            yield from (value.down_RK, value.up_NR)
        elif isinstance(value, Linear) and isinstance(value.weight, Tensor):
            yield value.weight
            if value.bias_N is not None:
                yield value.bias_N
        elif isinstance(value, Tensor):
            yield value
