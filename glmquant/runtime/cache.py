"""Keys and values of a batch, kept between steps.

Both kinds bind themselves to a step's inputs and outputs, and take the outputs in when it has run.

Shape suffixes: B batch, C key/value heads, L columns, W cache width.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import onnxruntime as ort

from glmquant.errors import GenerationError
from glmquant.runtime.session import BundleInfo


class KvCache(ABC):
    """
    Attributes:
        binding: of the session's inputs and outputs to this cache.
        capacity: columns, padding included, that fit.
        length: columns so far.
    """

    def __init__(self, session: ort.InferenceSession, info: BundleInfo, batch_size: int, capacity: int) -> None:
        self.batch_size = batch_size
        self.capacity = capacity
        self.length = 0
        self.binding = session.io_binding()
        # The first output bound is the first given back; see take.
        self.binding.bind_output("logits", info.provider)
        self._info = info
        self._names = [f"{layer}.{part}" for layer in range(info.num_layers) for part in ("key", "value")]

    def _buffer(self, columns: int) -> ort.OrtValue:
        info = self._info
        shape = [self.batch_size, info.num_key_value_heads, columns, info.cache_width]
        dtype = np.dtype(info.cache_dtype).type
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, info.provider)

    @abstractmethod
    def take(self, outputs: list[ort.OrtValue], length: int) -> None:
        """A step has run: its outputs, ``logits`` first, and the columns there are now."""

    @abstractmethod
    def cut(self, length: int) -> None:
        """Forgets all columns but the first ``length``. Raises GenerationError where there are fewer."""

    def _check_cut(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise GenerationError(f"a cache of {self.length} columns cannot be cut to {length}")


class SharedCache(KvCache):
    """In buffers that stay where they are; GroupQueryAttention writes in place where past and present are one."""

    def __init__(self, session: ort.InferenceSession, info: BundleInfo, batch_size: int, capacity: int) -> None:
        super().__init__(session, info, batch_size, capacity)
        for name in self._names:
            buffer = self._buffer(capacity)
            self.binding.bind_ortvalue_input(f"past_key_values.{name}", buffer)
            self.binding.bind_ortvalue_output(f"present.{name}", buffer)

    def take(self, outputs: list[ort.OrtValue], length: int) -> None:
        self.length = length

    def cut(self, length: int) -> None:
        self._check_cut(length)
        self.length = length


class GrowingCache(KvCache):
    """Each step's present is the next one's past."""

    def __init__(self, session: ort.InferenceSession, info: BundleInfo, batch_size: int, capacity: int) -> None:
        super().__init__(session, info, batch_size, capacity)
        self._values: list[Any] = [self._buffer(0) for _ in self._names]
        self._bind()

    def take(self, outputs: list[ort.OrtValue], length: int) -> None:
        self._values = outputs[1:]
        self.length = length
        self._bind()

    def cut(self, length: int) -> None:
        self._check_cut(length)
        if length < self.length:
            arrays = (value.numpy()[:, :, :length] for value in self._values)
            device = self._info.provider
            self._values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a), device) for a in arrays]
        self.length = length
        self._bind()

    def _bind(self) -> None:
        for name, value in zip(self._names, self._values, strict=True):
            self.binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            self.binding.bind_output(f"present.{name}", self._info.provider)
