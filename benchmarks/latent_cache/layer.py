"""A layer's attention in one of its forms, opened in ONNX Runtime, with as many tokens before as wanted.

Shape suffixes as in :mod:`benchmarks.latent_cache.forms`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from benchmarks.latent_cache.forms import (
    HALF,
    HEAD,
    HEADS,
    LATENT,
    ROTATING,
    TYPES,
    VALUE,
    Form,
    Weights,
    angles,
    build,
)

Cache = tuple[np.ndarray, np.ndarray]
"""Keys and values, or what a form keeps under these names, ``[1, heads, T, width]``."""


@dataclass(frozen=True)
class Text:
    """What the layer reads, float32: queries of the new tokens; latents and keys, not yet rotated, of all."""

    past: int
    new: int
    query: np.ndarray
    latent: np.ndarray
    key: np.ndarray


def make_text(past: int, new: int, rng: np.random.Generator) -> Text:
    def normal(tokens: int, width: int) -> np.ndarray:
        return rng.standard_normal((1, tokens, width), np.float32)

    return Text(past, new, normal(new, HEADS * HEAD), normal(past + new, LATENT), normal(past + new, ROTATING))


def float_cache(form: Form, weights: Weights, text: Text) -> Cache:
    """What the form keeps of all tokens, in float32."""
    rotated = _rotated(text.key)
    if form.heads == 1:
        row = np.concatenate([rotated, text.latent], axis=-1)[:, None]
        if not form.in_place:
            return row[..., :HALF], row[..., HALF:]
        return row, np.concatenate([text.key, text.latent], axis=-1)[:, None]
    keys = np.empty((1, HEADS, text.past + text.new, HEAD), np.float32)
    values = np.empty((1, HEADS, text.past + text.new, VALUE), np.float32)
    keys[..., :ROTATING] = rotated[:, None]
    for head in range(HEADS):
        keys[0, head, :, ROTATING:] = text.latent[0] @ weights.key_HEL[head].T
        values[0, head] = text.latent[0] @ weights.value_HLE[head]
    return keys, values


def _rotated(key_BTR: np.ndarray) -> np.ndarray:
    """Pairs of neighbors, turned by their place's angle."""
    cos, sin = (each[: key_BTR.shape[1]] for each in angles())
    first, second = key_BTR[..., ::2], key_BTR[..., 1::2]
    return np.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(key_BTR.shape)


class Layer:
    """A form with a text, ready to compute the text's new tokens as often as asked.

    Args:
        cache: of the form, in float32, of all tokens.
    """

    def __init__(self, form: Form, weights: Weights, text: Text, cache: Cache, accuracy_level: int = 4) -> None:
        scales = tuple(np.abs(each).max(axis=2, keepdims=True) / 127 for each in cache)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        model = build(form, weights, (scales[0], scales[1]), accuracy_level).SerializeToString()
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        known = {each.name for each in self._session.get_inputs()}
        for name, value in _feeds(text).items():
            if name in known:
                self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
        self._binding.bind_output("attended")
        for name, array, scale in zip(("key", "value"), cache, scales, strict=True):
            kept = ort.OrtValue.ortvalue_from_numpy(_kept(form, array, scale, text.past))
            self._binding.bind_ortvalue_input(f"past_{name}", kept)
            if form.in_place:
                self._binding.bind_ortvalue_output(f"present_{name}", kept)
            else:
                self._binding.bind_output(f"present_{name}")

    def attended(self) -> np.ndarray:
        """The heads' values, ``[1, S, HEADS * VALUE]``."""
        self._session.run_with_iobinding(self._binding)
        result: np.ndarray = self._binding.get_outputs()[0].numpy()
        return result

    def seconds(self) -> float:
        """The processor's, of one step."""
        start = time.process_time()
        self._session.run_with_iobinding(self._binding)
        return time.process_time() - start


def _feeds(text: Text) -> dict[str, np.ndarray]:
    total = text.past + text.new
    places = np.arange(text.past, total)
    later = np.arange(total) > places[:, None]
    return {
        "query": text.query,
        "latent": np.ascontiguousarray(text.latent[:, text.past :]),
        "key": np.ascontiguousarray(text.key[:, text.past :]),
        "seqlens": np.array([total - 1], np.int32),
        "total": np.array(total, np.int32),
        "positions": places[None],
        "mask": np.where(later, np.finfo(np.float32).min, 0).astype(np.float32),
    }


def _kept(form: Form, array: np.ndarray, scale: np.ndarray, past: int) -> np.ndarray:
    """In the form's type: a buffer with room for the new tokens where it is written in place, else the past ones."""
    kept = np.zeros(array.shape if form.in_place else (*array.shape[:2], past, array.shape[3]), TYPES[form.kind])
    for head in range(array.shape[1]):  # one at a time: 32k tokens of all heads are 0.7 GB
        values = array[:, head, :past]
        kept[:, head, :past] = np.rint(values / scale[:, head]) if form.kind == "int8" else values
    return kept


def medians(layers: Sequence[Layer], repetitions: int) -> list[float]:
    """Seconds a step of each, taking turns; each has run before."""
    taken = [[layer.seconds() for layer in layers] for _ in range(repetitions)]
    return [float(np.median(each)) for each in zip(*taken, strict=True)]
