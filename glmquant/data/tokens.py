"""A text as one stream of tokens.

Shape suffixes: T tokens.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glmquant.core.protocols import Tokenizer
from glmquant.data.text import read_documents

Ids = NDArray[np.int64]


class TokenStream:
    """The tokens of a file, document after document, held one document at a time.

    ``num_tokens`` counts what has been read so far.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.path, self.num_tokens = path, 0
        self._tokenizer = tokenizer

    def documents(self) -> Iterator[Ids]:
        for text in read_documents(self.path):
            ids_T = np.asarray(self._tokenizer.encode(text), dtype=np.int64)
            self.num_tokens += len(ids_T)
            yield ids_T

    def windows(self, length: int) -> Iterator[Ids]:
        """Consecutive windows of ``length`` tokens; what is left at the end is dropped."""
        rest_T = np.empty(0, dtype=np.int64)
        for ids_T in self.documents():
            rest_T = np.concatenate([rest_T, ids_T])
            whole = len(rest_T) // length * length
            for start in range(0, whole, length):
                yield rest_T[start : start + length].copy()
            rest_T = rest_T[whole:].copy()

    def last(self, count: int) -> Ids:
        """The last ``count`` tokens, or all where there are fewer."""
        kept: list[Ids] = []
        total = 0
        for ids_T in self.documents():
            kept.append(ids_T)
            total += len(ids_T)
            while total - len(kept[0]) >= count:
                total -= len(kept.pop(0))
        tail_T = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
        return tail_T[-count:].copy()
