"""From the tensors of a checkpoint, in whatever layout and however quantized, to canonical blocks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from glmquant.core.pages import unfilled
from glmquant.core.qtensor import QuantTensor
from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError
from glmquant.glm.block import Block
from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.config import LinearGroup
from glmquant.glm.groups import block_groups, head_group
from glmquant.glm.layouts.labels import HEAD_BIAS, HEAD_WEIGHT
from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.linear import Linear
from glmquant.glm.names import EMBEDDING, FINAL_NORM, layer_prefix
from glmquant.glm.parts import Part, PartKind, SparseKind, part_kinds
from glmquant.glm.parts.routing import EXPERT_LINEARS, RoutedExperts, Router
from glmquant.glm.parts.sparse_mlp import ROUTER_WEIGHT
from glmquant.store.gptq import GptqFormat, GptqLinear, locate_linear
from glmquant.store.row_quantized import RowQuantizedLinear
from glmquant.store.tensors import StoredTensor

FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32)
WEIGHT: Final = ".weight"
Stored = StoredTensor | GptqLinear | RowQuantizedLinear


@dataclass(frozen=True)
class StoredRows:
    """Rows ``[start, stop)`` of a stored matrix or vector, which is float or quantized."""

    stored: Stored
    start: int
    stop: int

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        return (self.stored,) if isinstance(self.stored, StoredTensor) else self.stored.tensors


@dataclass(frozen=True)
class TensorTable:
    """The tensors of a checkpoint and what is where; reading anything leaves nothing behind.

    Attributes:
        layout: canonical names to published ones.
        stored: published name to where the tensor lies.
        gptq: how quantized linear layers are stored; None in a float checkpoint.
    """

    layout: Layout
    stored: Mapping[str, StoredTensor]
    gptq: GptqFormat | None = None

    @property
    def has_quantized_rows(self) -> bool:
        return any(source.scales is not None for source in self.layout.sources.values())

    def verify(self) -> None:
        """Raises CheckpointError for a tensor that is missing, of another shape or dtype, or that nothing uses."""
        used = {tensor.name for tensor in self.used()}
        left = sorted(self.stored.keys() - used - self.layout.ignored)
        unknown = [name for name in left if not self._is_zero_bias(name)]
        if unknown:
            raise CheckpointError(
                f"{len(unknown)} tensors of the checkpoint have no place in a {self.layout.config.family} model: "
                + ", ".join(shown(name) for name in unknown[:3]),
                where=self.stored[unknown[0]].path,
                expected="only tensors whose meaning is known, since leaving one out would change the model",
            )
        config = self.layout.config
        for layer in range(config.num_hidden_layers):
            for group in block_groups(config, layer):
                self._uniform(group.name, self._weight_parts(group))
                self._uniform(group.name, self._bias_parts(group))

    def _is_zero_bias(self, name: str) -> bool:
        """AutoGPTQ gives every linear that it quantizes a bias, of zeros where the model has none."""
        module, tensor = name.removesuffix(".bias"), self.stored[name]
        qweight = self.stored.get(f"{module}.qweight")
        if module == name or qweight is None or tensor.shape != qweight.shape[1:] or tensor.dtype not in FLOATS:
            return False
        return not bool(tensor.read().any())

    def used(self) -> Iterator[StoredTensor]:
        """Every stored tensor that the model is made of; some come more than once."""
        for name in self.layout.sources:
            for part in self.parts(name):
                yield from part.tensors

    def parts(self, name: str) -> tuple[StoredRows, ...]:
        """Where a canonical tensor lies, top rows first."""
        source = self.layout.sources[name]
        split = self._splits.get(name, ())
        if split and source.name == name and not self._holds(name) and any(map(self._holds, split)):
            rows, *rest = source.shape
            share = (rows // len(split), *rest)
            return tuple(StoredRows(self._locate(half, share), 0, share[0]) for half in split)
        start, stop = source.rows or (0, source.shape[0])
        return (StoredRows(self._whole(name, source), start, stop),)

    @cached_property
    def _splits(self) -> dict[str, tuple[str, ...]]:
        """Canonical weights that may be stored in shares, and the names of these."""
        return {
            group.members[0] + WEIGHT: tuple(module + WEIGHT for module in group.split)
            for layer in range(self.layout.config.num_hidden_layers)
            for group in block_groups(self.layout.config, layer)
            if group.split
        }

    def _whole(self, name: str, source: TensorSource) -> Stored:
        if source.scales is not None:
            weight = self._typed(source.name, source.shape, torch.int8)
            return RowQuantizedLinear(weight, self._float(source.scales.name, source.shape[:1]), source.scales.bits)
        is_linear = len(source.shape) == 2 and name not in (EMBEDDING, HEAD_WEIGHT) and not name.endswith(ROUTER_WEIGHT)
        return self._locate(source.name, source.shape) if is_linear else self._float(source.name, source.shape)

    def _holds(self, name: str) -> bool:
        return name in self.stored or name.removesuffix(WEIGHT) + ".qweight" in self.stored

    def _locate(self, name: str, shape: tuple[int, ...]) -> StoredTensor | GptqLinear:
        is_quantized = name not in self.stored and self._holds(name)
        return self._quantized(name.removesuffix(WEIGHT), shape) if is_quantized else self._float(name, shape)

    def _float(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        return self._typed(name, shape, *FLOATS)

    def _typed(self, name: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> StoredTensor:
        tensor = self.stored.get(name)
        if tensor is None:
            raise CheckpointError(
                f"the checkpoint has no tensor {name}",
                where=next((each.path.parent for each in self.stored.values()), None),
                expected=f"one of shape {list(shape)}",
                hint="download the checkpoint again, completely, and see that config.json belongs to it",
            )
        if tensor.shape != shape or tensor.dtype not in dtypes:
            raise CheckpointError(
                f"the tensor {name} is {tensor.dtype} of shape {shown(list(tensor.shape))}",
                where=tensor.path,
                expected=f"a {'float' if dtypes == FLOATS else dtypes[0]} tensor of shape {list(shape)}, "
                "as config.json has it",
            )
        return tensor

    def _quantized(self, module: str, shape: tuple[int, ...]) -> GptqLinear:
        if self.gptq is None:
            raise CheckpointError(
                f"{module} is quantized, but nothing says how",
                where=self.stored[f"{module}.qweight"].path,
                expected="quantization_config in config.json, or a quantize_config.json",
            )
        return locate_linear(self.stored, module, shape, self.gptq)

    def _weight_parts(self, group: LinearGroup) -> list[StoredRows]:
        """The parts of a group's weight; rows that follow each other in one stored tensor become one part."""
        merged: list[StoredRows] = []
        for part in (part for member in group.members for part in self.parts(member + WEIGHT)):
            last = merged[-1] if merged else None
            if last is not None and last.stored == part.stored and last.stop == part.start:
                merged[-1] = replace(last, stop=part.stop)
            else:
                merged.append(part)
        return merged

    def _bias_parts(self, group: LinearGroup) -> list[StoredRows]:
        names = [f"{member}.bias" for member in group.members if f"{member}.bias" in self.layout.sources]
        return [part for name in names for part in self.parts(name)]

    def _uniform(self, name: str, parts: Sequence[StoredRows]) -> None:
        kinds = {p.stored.dtype if isinstance(p.stored, StoredTensor) else p.stored.spec for p in parts}
        if len(kinds) > 1:
            raise CheckpointError(
                f"the linear layers of {name} differ: " + ", ".join(sorted(str(kind) for kind in kinds)),
                where=parts[0].tensors[0].path,
                expected="one dtype, or one number of bits and one group size, for all that share an input",
            )
        orders = [_order(part.stored) for part in parts]
        if not all(_same_order(order_K, orders[0]) for order_K in orders):
            raise CheckpointError(
                f"the linear layers of {name} put their columns into groups in different orders",
                where=parts[0].tensors[0].path,
                expected="one g_idx for all that share an input, as GPTQ gives them",
            )

    def vector(self, name: str) -> Tensor:
        """A canonical float tensor that is no linear's weight."""
        return self._read_float(self.parts(name))

    def linear(self, group: LinearGroup) -> Linear:
        """A linear group, its members one below the other."""
        parts, bias_parts = self._weight_parts(group), self._bias_parts(group)
        bias_N = self._read_float(bias_parts) if bias_parts else None
        quantized = [(p.stored, p.start, p.stop) for p in parts if not isinstance(p.stored, StoredTensor)]
        if not quantized:
            return Linear(self._read_float(parts), bias_N)
        stacked = _stack([stored.read(start, stop) for stored, start, stop in quantized])
        return Linear(stacked, bias_N, _order(parts[0].stored))

    def _read_float(self, parts: Sequence[StoredRows]) -> Tensor:
        tensors = [part.stored for part in parts if isinstance(part.stored, StoredTensor)]
        rows = sum(part.stop - part.start for part in parts)
        out = unfilled((rows, *tensors[0].shape[1:]), tensors[0].dtype)
        at = 0
        for tensor, part in zip(tensors, parts, strict=True):
            count = part.stop - part.start
            tensor.read_into(out[at : at + count], (part.start, part.stop))
            at += count
        return out

    def block(self, layer: int) -> Block:
        at, config = layer_prefix(layer), self.layout.config
        parts = []
        for kind in part_kinds(config, layer):
            linears = {group.within(kind.scope): self.linear(group) for group in kind.groups(config, layer)}
            gains = {name: self.vector(f"{at}{name}.weight") for name in kind.gain_sizes(config)}
            parts.append(Part(kind, linears, gains, self._experts(layer, kind)))
        return Block(*parts)

    def _experts(self, layer: int, kind: PartKind) -> RoutedExperts | None:
        """Routed experts, each read when it is asked for; None where the part has none."""
        config = self.layout.config
        if config.experts is None or not isinstance(kind, SparseKind):
            return None
        weight_XD, bias_X = (self.vector(f"{layer_prefix(layer)}{name}").float() for name in kind.router_shapes(config))
        router = Router(weight_XD, bias_X, config.experts.per_token, config.experts.scaling)

        def load(expert: int, name: str) -> Linear:
            return self.linear(kind.expert_groups(config, layer, expert)[EXPERT_LINEARS.index(name)])

        return RoutedExperts(kind.unit(layer), router, config.experts.count, load, kind.within_expert)

    def embedding(self) -> Tensor:
        return self.vector(EMBEDDING)

    def final_norm(self) -> Tensor:
        return self.vector(FINAL_NORM)

    def lm_head(self) -> Linear:
        if self.layout.config.num_labels:
            raise CheckpointError(
                "the checkpoint is a classifier: it has no language-model head",
                where=HEAD_WEIGHT,
                hint="classify with it, or give the language model it was trained from",
            )
        return self.linear(head_group(self.layout.config))

    def classification_head(self) -> ClassificationHead:
        labels = self.layout.config.labels
        if not labels:
            raise CheckpointError(
                "the checkpoint is a language model: it has no classification head",
                expected="tensors classifier_head.weight or score.weight",
                hint="train a classifier from it first",
            )
        bias_L = self.vector(HEAD_BIAS) if HEAD_BIAS in self.layout.sources else None
        return ClassificationHead(self.vector(HEAD_WEIGHT), bias_L, labels)


def _order(stored: Stored) -> Tensor | None:
    return stored.order_K if isinstance(stored, GptqLinear) else None


def _same_order(one_K: Tensor | None, other_K: Tensor | None) -> bool:
    if one_K is None or other_K is None:
        return one_K is other_K
    return torch.equal(one_K, other_K)


def _stack(parts: list[QuantTensor]) -> QuantTensor:
    """Symmetric only where all parts are."""
    symmetric = all(part.spec.symmetric for part in parts)
    return QuantTensor.stack([replace(part, spec=replace(part.spec, symmetric=symmetric)) for part in parts])
