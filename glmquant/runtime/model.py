"""An ONNX bundle as a function from token ids to logits, with or without a KV cache.

Shape suffixes: B batch, T new tokens, L columns of the mask (cached and new), V vocabulary.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from glmquant.data.sequences import Ids
from glmquant.errors import ExportError, GenerationError
from glmquant.runtime.cache import GrowingCache, KvCache, SharedCache
from glmquant.runtime.session import (
    GRAPH_FILE,
    BundleInfo,
    Provider,
    is_classifier,
    open_session,
    read_info,
    read_settings,
    require_provider,
)

Logits = npt.NDArray[np.float32]
KEEP = "num_logits_to_keep"
LOGITS = ("tensor(float)", "tensor(float16)")


class OnnxModel:
    """A bundle opened in ONNX Runtime."""

    def __init__(self, session: ort.InferenceSession, info: BundleInfo) -> None:
        self._session = session
        self.info = info

    @classmethod
    def open(cls, directory: Path, *, num_threads: int | None = None, provider: Provider = "cpu") -> "OnnxModel":
        """Open the bundle in ``directory``.

        Args:
            num_threads: within an operator; None lets ONNX Runtime use every core.
            provider: execution provider.

        Raises:
            ExportError: ``directory`` is not a bundle that glmquant exported, or damaged; or ``provider`` is not
                available.
        """
        require_provider(provider)
        if is_classifier(directory):
            raise ExportError(
                f"{directory} is a classifier's bundle, which generates no text",
                where=directory,
                expected="a language model's bundle",
                hint="`classify` labels texts with it",
            )
        settings = read_settings(directory)
        session = open_session(directory, settings, num_threads, provider)
        return cls(session, read_info(directory, session, settings, provider))

    def forward(self, input_ids_BT: Ids, attention_mask_BT: Ids, *, keep: int = 0) -> Logits:
        """Logits of whole sequences.

        Args:
            input_ids_BT: int64 ``[B, T]``.
            attention_mask_BT: int64 ``[B, T]``, 1 for tokens, 0 for padding on either side of a row.
            keep: number of last columns to return logits of; 0 for all.

        Returns:
            float32 ``[B, keep or T, V]``; undefined for padding.

        Raises:
            GenerationError: ids, mask or length out of range.
            ExportError: ONNX Runtime cannot run the graph.
        """
        self._check(input_ids_BT, attention_mask_BT, 0)
        info = self.info
        empty = np.zeros((len(input_ids_BT), info.num_key_value_heads, 0, info.cache_width), info.cache_dtype)
        binding = self._session.io_binding()
        binding.bind_output("logits")
        for layer in range(info.num_layers):
            for part in ("key", "value"):
                binding.bind_cpu_input(f"past_key_values.{layer}.{part}", empty)
        return self._logits(self._run(binding, input_ids_BT, attention_mask_BT, keep), input_ids_BT.shape, keep)

    def new_cache(self, batch_size: int, capacity: int) -> KvCache:
        """An empty cache for ``capacity`` columns."""
        kind = GrowingCache if self.info.cache_grows else SharedCache
        return kind(self._session, self.info, batch_size, capacity)

    def forward_with_cache(self, input_ids_BT: Ids, attention_mask_BL: Ids, cache: KvCache, *, keep: int = 0) -> Logits:
        """Logits of new tokens, whose keys and values are appended to ``cache``.

        Args:
            input_ids_BT: int64 ``[B, T]``.
            attention_mask_BL: int64 ``[B, L]``, over the cached columns and the new ones.
            keep: number of last columns to return logits of; 0 for all.

        Returns:
            float32 ``[B, keep or T, V]``.

        Raises:
            GenerationError: ids, mask or length out of the range of model or cache.
            ExportError: ONNX Runtime cannot run the graph.
        """
        self._check(input_ids_BT, attention_mask_BL, cache.length)
        length = attention_mask_BL.shape[1]
        if length > cache.capacity or len(input_ids_BT) != cache.batch_size:
            raise GenerationError(
                f"a batch of {len(input_ids_BT)} rows and {length} columns does not fit the cache",
                expected=f"{cache.batch_size} rows and at most {cache.capacity} columns",
            )
        outputs = self._run(cache.binding, input_ids_BT, attention_mask_BL, keep)
        logits_BTV = self._logits(outputs, input_ids_BT.shape, keep)
        cache.update(outputs, length)
        return logits_BTV

    def _logits(self, outputs: list[ort.OrtValue], shape: tuple[int, ...], keep: int) -> Logits:
        """Those of ``keep`` columns, or all, of ids of a shape; a graph may give something else than it says."""
        expected = (shape[0], min(keep or shape[1], shape[1]), self.info.vocab_size)
        if tuple(outputs[0].shape()) != expected or outputs[0].data_type() not in LOGITS:
            raise ExportError(
                f"the graph gives {outputs[0].data_type()} {outputs[0].shape()} for logits",
                where=GRAPH_FILE,
                expected=f"floats of shape {list(expected)}",
                hint="export the checkpoint with glmquant",
            )
        logits_BTV: Logits = outputs[0].numpy().astype(np.float32, copy=False)
        return logits_BTV

    def _run(self, binding: Any, input_ids_BT: Ids, mask_BL: Ids, keep: int) -> list[ort.OrtValue]:
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(input_ids_BT))
        binding.bind_cpu_input("attention_mask", np.ascontiguousarray(mask_BL))
        binding.bind_ortvalue_input(KEEP, ort.OrtValue.ortvalue_from_numpy(np.array([keep], np.int64)))
        # Bound again, since its shape may differ from the last step's.
        binding.bind_output("logits", self.info.provider)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
            raise ExportError(
                f"ONNX Runtime could not run the model: {error}",
                expected=f"a graph that onnxruntime {ort.__version__} can run on this machine",
                hint="if memory ran out, use a smaller batch or a shorter text",
            ) from error
        outputs: list[ort.OrtValue] = binding.get_outputs()
        return outputs

    def _check(self, input_ids_BT: Ids, mask_BL: Ids, past: int) -> None:
        batch, new = input_ids_BT.shape
        if new == 0 or mask_BL.shape != (batch, past + new):
            raise GenerationError(
                f"an attention mask of shape {mask_BL.shape} for ids of shape {(batch, new)} after {past} columns",
                expected=f"at least one new token, and a mask of shape {(batch, past + new)}",
            )
        if input_ids_BT.min() < 0 or input_ids_BT.max() >= self.info.vocab_size:
            raise GenerationError(
                f"token ids range from {input_ids_BT.min()} to {input_ids_BT.max()}",
                expected=f"ids from 0 to {self.info.vocab_size - 1}",
                hint="encode the text with the bundle's tokenizer",
            )
        real_B = mask_BL.sum(1)
        edges = np.abs(np.diff(mask_BL[:, past:], axis=1, prepend=0, append=0)).sum(1)
        if real_B.min() < 1 or edges.max() > 2:
            raise GenerationError(
                "a row of the batch has no token, or padding between its tokens",
                expected="contiguous tokens, with padding on the left, the right or both",
            )
        if real_B.max() > self.info.max_length:
            raise GenerationError(
                f"a row of the batch has {real_B.max()} tokens",
                expected=f"at most {self.info.max_length}, the bundle's max_length",
                hint="shorten the text, or export with a larger export.max_length",
            )
