"""The KV cache of a batch, bound to the session's inputs and outputs."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import onnxruntime as ort

from glmquant.errors import GenerationError
from glmquant.runtime.session import BundleInfo


class KvCache(ABC):
    """Past and present keys and values, bound to a session.

    Attributes:
        binding: ONNX Runtime's I/O binding, with this cache's inputs and outputs bound.
        capacity: maximum number of columns, padding included.
        length: columns in use.
    """

    def __init__(self, session: ort.InferenceSession, info: BundleInfo, batch_size: int, capacity: int) -> None:
        self.batch_size = batch_size
        self.capacity = capacity
        self.length = 0
        self.binding = session.io_binding()
        # The first output bound is the first returned; see update.
        self.binding.bind_output("logits", info.provider)
        self._info = info
        self._names = [f"{layer}.{part}" for layer in range(info.num_layers) for part in ("key", "value")]

    def _buffer(self, columns: int) -> ort.OrtValue:
        info = self._info
        shape = [self.batch_size, info.num_key_value_heads, columns, info.cache_width]
        dtype = np.dtype(info.cache_dtype).type
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, info.provider)

    @abstractmethod
    def update(self, outputs: list[ort.OrtValue], length: int) -> None:
        """Store a step's outputs, of which ``logits`` is the first; the cache then has ``length`` columns."""

    @abstractmethod
    def truncate(self, length: int) -> None:
        """Keep the first ``length`` columns.

        Raises:
            GenerationError: fewer columns than that.
        """

    def _check_truncate(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise GenerationError(f"a cache of {self.length} columns cannot be truncated to {length}")


class SharedCache(KvCache):
    """Fixed buffers: GroupQueryAttention writes in place where past and present share a buffer."""

    def __init__(self, session: ort.InferenceSession, info: BundleInfo, batch_size: int, capacity: int) -> None:
        super().__init__(session, info, batch_size, capacity)
        for name in self._names:
            buffer = self._buffer(capacity)
            self.binding.bind_ortvalue_input(f"past_key_values.{name}", buffer)
            self.binding.bind_ortvalue_output(f"present.{name}", buffer)

    def update(self, outputs: list[ort.OrtValue], length: int) -> None:
        self.length = length

    def truncate(self, length: int) -> None:
        self._check_truncate(length)
        self.length = length


class GrowingCache(KvCache):
    """Growing arrays: each step's present is the next step's past."""

    def __init__(self, session: ort.InferenceSession, info: BundleInfo, batch_size: int, capacity: int) -> None:
        super().__init__(session, info, batch_size, capacity)
        self._values: list[Any] = [self._buffer(0) for _ in self._names]
        self._bind()

    def update(self, outputs: list[ort.OrtValue], length: int) -> None:
        self._values = outputs[1:]
        self.length = length
        self._bind()

    def truncate(self, length: int) -> None:
        self._check_truncate(length)
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
