"""Texts as token sequences, and batches of them.

Shape suffixes: B batch, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glmquant.core.protocols import Tokenizer
from glmquant.data.reading import USUAL, Reading
from glmquant.data.text import read_lines
from glmquant.errors import DataError

Ids = NDArray[np.int64]
"""Token ids."""


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Each text's token ids, prefix included, and whether it was truncated."""

    ids: tuple[Ids, ...]
    truncated: tuple[bool, ...]

    @property
    def num_truncated(self) -> int:
        return sum(self.truncated)


def encode_texts(
    texts: Sequence[str], tokenizer: Tokenizer, max_length: int, places: Sequence[str] = ()
) -> EncodedTexts:
    """Encodes texts as a classifier reads them: the tokenizer's prefix, then the text's tokens.

    A text of more than ``max_length`` tokens, prefix included, is truncated at its end.

    Args:
        max_length: tokens, prefix included.
        places: where each text comes from, for errors.

    Raises:
        DataError: a text without a visible character; or ``max_length`` leaves no room for text.
    """
    prefix = tokenizer.prefix_ids
    room = max_length - len(prefix)
    if room < 1:
        raise DataError(f"max_length is {max_length}", expected=f"more than the prefix's {len(prefix)} tokens")
    ids, truncated = [], []
    for number, text in enumerate(texts):
        if not text.strip():
            place = places[number] if places else None
            raise DataError(
                f"text {number + 1} of {len(texts)} is empty",
                where=place,
                expected="text to classify",
                hint="leave it out",
            )
        tokens = tokenizer.encode(text)
        ids.append(np.array([*prefix, *tokens[:room]], dtype=np.int64))
        truncated.append(len(tokens) > room)
    return EncodedTexts(tuple(ids), tuple(truncated))


def read_texts(path: Path, reading: Reading = USUAL) -> list[str]:
    """The texts of a file: each record's text, or each line of a plain text.

    Raises:
        DataError: a file that cannot be read, or a record without text.
    """
    return [text for text, _ in read_lines(path, reading)]


def length_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Batches, as indices, of similar lengths: padded, each has at most ``max_tokens`` tokens, or a single sequence."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # Descending order: the first member of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def padded(ids: Sequence[Ids], pad_id: int, side: Literal["left", "right"] = "left") -> tuple[Ids, Ids]:
    """Sequences side by side, padded on one side, and their mask (1 for tokens): both int64 ``[B, T]``."""
    length = max(map(len, ids))
    ids_BT = np.full((len(ids), length), pad_id, dtype=np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for row, sequence in enumerate(ids):
        place = slice(length - len(sequence), None) if side == "left" else slice(len(sequence))
        ids_BT[row, place] = sequence
        mask_BT[row, place] = 1
    return ids_BT, mask_BT
