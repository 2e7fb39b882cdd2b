"""A GPU for machines that have none: tensors that say they are elsewhere, and hold their values in CPU memory.

Every operation computes what it computes on the CPU, and is refused where CUDA would refuse it: operands of two
devices, numpy's view of a tensor that is elsewhere. What it cannot show is a GPU's own arithmetic and speed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("meta")
"""Of the kinds of device that a CPU build of torch lets tensors be on, the one that means none of its own."""

aten = torch.ops.aten
BETWEEN_DEVICES = {aten.copy_.default, aten._to_copy.default}
INDEXED_FROM_CPU = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
PLAIN_ATTENTION = 0
"""torch.nn.attention.SDPBackend.MATH: made of operations that all devices have."""


class OnGpu(Tensor):
    """``held`` is the CPU tensor with its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGpu":
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=GPU
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **kwargs: Any) -> str:
        return f"OnGpu({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _computed(function, args, kwargs or {})


class _Pretending(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = _computed(function, args, kwargs or {})
        self.operations += isinstance(result, OnGpu)
        return result


def _computed(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if function is aten._fused_sdp_choice.default:
        return PLAIN_ATTENTION
    leaves = tree_flatten((args, kwargs))[0]
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    elsewhere = any(isinstance(x, OnGpu) for x in tensors)
    if elsewhere and function not in BETWEEN_DEVICES:
        bound = tensors[:1] if function in INDEXED_FROM_CPU else tensors
        mixed = [tuple(x.shape) for x in bound if not isinstance(x, OnGpu) and x.dim()]
        assert not mixed, f"{function}: operands on two devices, {mixed} on the processor"
    asked = next((x for x in leaves if isinstance(x, torch.device)), None)
    on_gpu = elsewhere if asked is None else asked == GPU
    if function is aten.copy_.default:
        on_gpu = isinstance(args[0], OnGpu)
    result = function(*tree_map(_held, args), **tree_map(_held, kwargs))
    if asked is not None and tensors and on_gpu != elsewhere:
        return OnGpu(result.clone()) if on_gpu else result.clone()
    known = {id(x.held): x for x in tensors if isinstance(x, OnGpu)}
    return tree_map(lambda x: _wrapped(x, known, on_gpu), result)


def _held(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.held if isinstance(value, OnGpu) else value


def _wrapped(value: Any, known: dict[int, OnGpu], on_gpu: bool) -> Any:
    if not isinstance(value, Tensor) or not on_gpu:
        return value
    return known[id(value)] if id(value) in known else OnGpu(value)


@contextmanager
def simulated_gpu() -> Iterator[Callable[[], int]]:
    """While it lasts this thread can compute on ``GPU``; gives how many tensors were made there so far."""
    with _Pretending() as mode:
        yield lambda: mode.operations
