"""Calibration samples, drawn from text files, and the ranges recorded on them.

Shape suffixes: S samples, L tokens of a sample, C key/value heads, E head size.
"""

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from glmquant.core.protocols import Tokenizer
from glmquant.data.reading import USUAL, Reading
from glmquant.data.sequences import Ids
from glmquant.data.windows import TokenStream
from glmquant.errors import CalibrationError

Sampling = Literal["random", "sequential"]
FEWEST: Final = 32
"""A text too short by a larger factor is not worth calibrating on."""


@dataclass(frozen=True)
class TextSource:
    """A text file that samples were drawn from.

    Attributes:
        name: without directories.
        num_samples: that it gave.
        sha256: of its tokens, all of them; None where it was not read to its end, or by an earlier release.
    """

    name: str
    num_samples: int
    sha256: str | None = None


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Calibration samples of equal length, without padding, in the order they are used in.

    Attributes:
        tokens_SL: token ids, int64; each row starts with the tokenizer's prefix, where it has one.
        sources: the files the rows were drawn from.
        tokenizer: sha256 of the tokenizer.
        seed: seed of ``random`` sampling.
        sampling: ``random`` or ``sequential``.
    """

    tokens_SL: Tensor = field(repr=False)
    sources: tuple[TextSource, ...]
    tokenizer: str
    seed: int
    sampling: Sampling = "random"

    @property
    def texts(self) -> tuple[str, ...]:
        """sha256 of each text that was read to its end."""
        return tuple(source.sha256 for source in self.sources if source.sha256 is not None)

    @cached_property
    def sha256(self) -> str:
        """Of the tokens, as little-endian int64, and their shape."""
        samples, length = self.tokens_SL.shape
        digest = hashlib.sha256(f"{samples}x{length}\n".encode())
        digest.update(self.tokens_SL.contiguous().numpy().astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class KeyValueRange:
    """Largest absolute keys (rotated) and values of a layer's KV cache, per channel: float32 ``[C, E]``."""

    key_absmax_CE: Tensor = field(repr=False)
    value_absmax_CE: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Calibration:
    """What calibrating gives, and quantizing and exporting take.

    Attributes:
        samples: tokens to fit to.
        key_values: a range per layer, where a quantized KV cache was asked for; else empty.
    """

    samples: CalibrationSet
    key_values: tuple[KeyValueRange, ...] = ()

    def __repr__(self) -> str:
        samples, length = self.samples.tokens_SL.shape
        ranges = f", {len(self.key_values)} layers' key and value ranges" if self.key_values else ""
        return f"<Calibration of {samples} samples of {length} tokens{ranges}>"


def sample_calibration(
    files: Sequence[Path],
    weights: Sequence[float],
    tokenizer: Tokenizer,
    *,
    num_samples: int,
    seq_len: int,
    seed: int = 0,
    sampling: Sampling = "random",
    reading: Reading = USUAL,
) -> CalibrationSet:
    """Draws samples of ``seq_len`` tokens, prefix included, from text files, without overlap.

    Each file is tokenized into one stream and cut into consecutive windows. ``sequential`` takes the first windows.
    ``random`` gives window *w* of file *f* the key BLAKE2b(``"seed/f/w"``) and takes the windows of the smallest keys,
    in the order of their keys: the choice depends on the seed and the tokens alone, and only the chosen windows are in
    memory.

    Args:
        files: of text, of records with a text, or of conversations (docs/data.md).
        weights: each file's share of the samples, rounded by largest remainder; empty for equal shares.
        num_samples: over all files.
        seq_len: tokens per sample.
        seed: of ``random`` sampling.
        reading: what the files' owner says about them.

    Raises:
        DataError: a file that cannot be read.
        CheckpointError: conversations, and a tokenizer without a chat template.
        CalibrationError: no file; a ``seq_len`` that the tokenizer's prefix fills; a file whose share is no sample; or
            too little text (it says how many tokens there are and how many are needed).
    """
    if not files:
        raise CalibrationError("there is no calibration text", where="calibration.data", expected="at least one file")
    body = seq_len - len(tokenizer.prefix_ids)
    if body < 1:
        raise CalibrationError(
            f"seq_len {seq_len} leaves no room after the tokenizer's prefix of {len(tokenizer.prefix_ids)} tokens",
            where="calibration.seq_len",
        )
    weights = weights or [1.0] * len(files)
    shares = _shares(weights, num_samples)
    keyed, sources = [], []
    for index, (path, share) in enumerate(zip(files, shares, strict=True)):
        stream = TokenStream(Path(path), tokenizer, reading)
        chosen = _choose(stream, share, body, f"{seed}/{index}", sampling)
        if len(chosen) < share:
            raise _too_little(stream, share, body, _most_samples(len(chosen), weights, index, num_samples))
        keyed += chosen
        sources.append(TextSource(Path(path).name, share, stream.sha256 if sampling == "random" else None))
    if sampling == "random":
        keyed.sort(key=lambda pair: pair[0])
    prefix_S = np.tile(np.asarray(tokenizer.prefix_ids, dtype=np.int64), (num_samples, 1))
    tokens_SL = np.concatenate([prefix_S, np.stack([window for _, window in keyed])], axis=1)
    return CalibrationSet(torch.from_numpy(tokens_SL), tuple(sources), tokenizer.sha256, seed, sampling)


def _shares(weights: Sequence[float], total: int) -> list[int]:
    shares = _split(weights, total)
    if 0 in shares:
        raise CalibrationError(
            f"of {total} samples, file {shares.index(0) + 1} of {len(shares)} would get none",
            where="calibration.weights",
            hint="raise calibration.num_samples or the file's weight, or leave the file out",
        )
    return shares


def _split(weights: Sequence[float], total: int) -> list[int]:
    """``total`` split in proportion to ``weights`` by largest remainder, ties to the first."""
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def _choose(stream: TokenStream, count: int, length: int, name: str, sampling: Sampling) -> list[tuple[bytes, Ids]]:
    """``count`` windows of ``length`` tokens with their keys; fewer where there are no more."""
    windows = ((_key(name, index), window_L) for index, window_L in enumerate(stream.windows(length)))
    if sampling == "sequential":
        return list(islice(windows, count))
    return heapq.nsmallest(count, windows, key=lambda pair: pair[0])


def _too_little(stream: TokenStream, count: int, length: int, most: int | None) -> CalibrationError:
    return CalibrationError(
        f"too little calibration text: {stream.path.name} has {stream.num_tokens:,} tokens; "
        f"{count} samples of {length} text tokens need {count * length:,}",
        where=stream.path,
        hint="give more text, or lower calibration.num_samples and calibration.seq_len"
        if most is None
        else f"give more text, or set calibration.num_samples={most}",
    )


def _most_samples(possible: int, weights: Sequence[float], index: int, total: int) -> int | None:
    """How many samples in all there can be where file ``index`` gives at most ``possible``; None where that is not
    worth it, or leaves a file without any."""
    count = _split(weights, total)[index]
    if possible * FEWEST < count:
        return None
    below = range(min(total, possible * total // count + len(weights)), 0, -1)
    most = next((fewer for fewer in below if _split(weights, fewer)[index] <= possible), 0)
    return most if most and 0 not in _split(weights, most) else None


def _key(name: str, window: int) -> bytes:
    return hashlib.blake2b(f"{name}/{window}".encode(), digest_size=16).digest()
