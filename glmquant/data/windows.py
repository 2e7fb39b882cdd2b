"""A text file as one stream of tokens, and the windows cut from it.

Shape suffixes: T tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from glmquant.core.protocols import Tokenizer
from glmquant.data.chat_tokens import ChatEncoder
from glmquant.data.reading import USUAL, Reading
from glmquant.data.sequences import Ids
from glmquant.data.text import Document, read_documents
from glmquant.errors import CheckError


class TokenStream:
    """The tokens of a file, document after document, without the tokenizer's prefix; one document is in memory.

    A conversation is written by the model's chat template. Reading raises :class:`DataError` for a file that cannot be
    read, and :class:`CheckpointError` for conversations where there is no template.

    Attributes:
        path: the file.
        num_tokens: tokens read so far.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, reading: Reading = USUAL) -> None:
        self.path, self.num_tokens = path, 0
        self._tokenizer, self._reading, self._chats = tokenizer, reading, ChatEncoder(tokenizer)

    def documents(self) -> Iterator[Ids]:
        """Each document's token ids: int64 ``[T]``."""
        for document in read_documents(self.path, self._reading):
            ids_T = self._encode(document)
            self.num_tokens += len(ids_T)
            yield ids_T

    def _encode(self, document: Document) -> Ids:
        if isinstance(document, str):
            return np.asarray(self._tokenizer.encode(document), dtype=np.int64)
        prefix_T = np.asarray(self._tokenizer.prefix_ids, dtype=np.int64)
        ids_T = self._chats.ids(document.turns, document.where)
        starts = np.array_equal(ids_T[: len(prefix_T)], prefix_T)
        return ids_T[len(prefix_T) :] if starts else ids_T

    def windows(self, length: int) -> Iterator[Ids]:
        """Consecutive windows of ``length`` tokens, across documents; the incomplete last one is dropped."""
        rest_T = np.empty(0, dtype=np.int64)
        for ids_T in self.documents():
            rest_T = np.concatenate([rest_T, ids_T])
            whole = len(rest_T) // length * length
            for start in range(0, whole, length):
                yield rest_T[start : start + length].copy()
            rest_T = rest_T[whole:].copy()

    def last(self, count: int) -> Ids:
        """The last ``count`` tokens, or all of them where the file has fewer."""
        kept: list[Ids] = []
        total = 0
        for ids_T in self.documents():
            kept.append(ids_T)
            total += len(ids_T)
            while total - len(kept[0]) >= count:
                total -= len(kept.pop(0))
        tail_T = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
        return tail_T[-count:].copy()


@dataclass(frozen=True, eq=False)
class EvaluationText:
    """The end of a text, cut into windows to measure perplexity on.

    Attributes:
        name: the file's name without directories.
        windows: each int64 ``[T]``: the tokenizer's prefix, then ``seq_len`` tokens of the text; consecutive, without
            overlap.
        num_scored: tokens scored in each window: its last ``seq_len - 1``. The prefix is never scored, nor is the first
            token after it, so that tokenizers with and without a prefix are scored alike.
        bytes_per_token: UTF-8 bytes of the text in the windows, divided by its tokens.
    """

    name: str
    windows: tuple[Ids, ...] = field(repr=False)
    num_scored: int
    bytes_per_token: float


def last_windows(
    path: Path, tokenizer: Tokenizer, *, num_tokens: int, seq_len: int, reading: Reading = USUAL
) -> EvaluationText:
    """Windows over the last ``num_tokens // seq_len * seq_len`` tokens of a text file.

    Raises:
        DataError: a file that cannot be read.
        CheckError: the text is too short (it says how many tokens there are and how many are needed), or its tokens
            decode to nothing.
    """
    count = num_tokens // seq_len
    stream = TokenStream(path, tokenizer, reading)
    tail_T = stream.last(count * seq_len)
    if count < 1 or len(tail_T) < count * seq_len:
        raise CheckError(
            f"the text to evaluate on is too short: {path.name} has {stream.num_tokens:,} tokens; "
            f"{max(count, 1) * seq_len:,} are needed",
            where=path,
            hint="give more text, or lower check.num_tokens",
        )
    prefix_T = np.asarray(tokenizer.prefix_ids, dtype=np.int64)
    windows = tuple(np.concatenate([prefix_T, row_T]) for row_T in tail_T.reshape(count, seq_len))
    num_bytes = len(tokenizer.decode(tail_T.tolist()).encode())
    if num_bytes == 0:
        raise CheckError("the text's tokens decode to nothing", where=path, hint="use the model's own tokenizer")
    return EvaluationText(path.name, windows, seq_len - 1, num_bytes / len(tail_T))
