"""A text file as one stream of tokens, and the windows cut from it.

Shape suffixes: T tokens.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Final, Literal

import numpy as np

from glmquant.core.protocols import Tokenizer
from glmquant.data.chat_tokens import ChatEncoder
from glmquant.data.reading import USUAL, Reading
from glmquant.data.sequences import Ids
from glmquant.data.text import Document, read_documents
from glmquant.errors import CheckError

Place = Literal["even", "last"]
TOKEN_BYTES: Final = 4


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
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of the tokens read so far, as little-endian int32: equal texts have equal ones, whatever their files."""
        return self._digest.hexdigest()

    def documents(self) -> Iterator[Ids]:
        """Each document's token ids: int64 ``[T]``."""
        for document in read_documents(self.path, self._reading):
            ids_T = self._encode(document)
            self.num_tokens += len(ids_T)
            self._digest.update(ids_T.astype("<i4").tobytes())
            yield ids_T

    def _encode(self, document: Document) -> Ids:
        if isinstance(document, str):
            return np.asarray(self._tokenizer.encode(document), dtype=np.int64)
        prefix_T = np.asarray(self._tokenizer.prefix_ids, dtype=np.int64)
        ids_T = self._chats.ids(document.turns, document.where, document.tools)
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


@dataclass(frozen=True, eq=False)
class EvaluationText:
    """Windows of a text, to measure perplexity on.

    Attributes:
        name: the file's name without directories.
        windows: each int64 ``[T]``: the tokenizer's prefix, then ``seq_len`` tokens of the text, without overlap.
        num_scored: tokens scored in each window: its last ``seq_len - 1``. The prefix is never scored, nor is the first
            token after it, so that tokenizers with and without a prefix are scored alike.
        bytes_per_token: UTF-8 bytes of the text in the windows, divided by its tokens.
        num_tokens: of the whole text.
        sha256: of the whole text's tokens, as of a :class:`TokenStream`.
    """

    name: str
    windows: tuple[Ids, ...] = field(repr=False)
    num_scored: int
    bytes_per_token: float
    num_tokens: int
    sha256: str


def read_windows(
    path: Path,
    tokenizer: Tokenizer,
    *,
    num_tokens: int,
    seq_len: int,
    place: Place = "even",
    reading: Reading = USUAL,
) -> EvaluationText:
    """``num_tokens // seq_len`` windows of a text file, spread over all of it or taken from its end.

    Raises:
        DataError: a file that cannot be read.
        CheckError: the text is too short (it says how many tokens there are and how many are needed), or its tokens
            decode to nothing.
    """
    count = num_tokens // seq_len
    stream = TokenStream(path, tokenizer, reading)
    with TemporaryFile() as spool:
        total = _spool(stream, spool)
        if count < 1 or total < count * seq_len:
            raise CheckError(
                f"the text to evaluate on is too short: {path.name} has {total:,} tokens; "
                f"{max(count, 1) * seq_len:,} are needed",
                where=path,
                hint=_how_to_lower(total, seq_len),
            )
        starts = _starts(total, count, seq_len, place)
        rows = [_read(spool, start, seq_len) for start in starts]
    prefix_T = np.asarray(tokenizer.prefix_ids, dtype=np.int64)
    windows = tuple(np.concatenate([prefix_T, row_T]) for row_T in rows)
    num_bytes = sum(len(tokenizer.decode(run).encode()) for run in _runs(starts, rows))
    if num_bytes == 0:
        raise CheckError("the text's tokens decode to nothing", where=path, hint="use the model's own tokenizer")
    return EvaluationText(path.name, windows, seq_len - 1, num_bytes / (count * seq_len), total, stream.sha256)


def _spool(stream: TokenStream, spool: BinaryIO) -> int:
    """Writes a text's tokens, as int32; how many."""
    for ids_T in stream.documents():
        spool.write(ids_T.astype(np.int32).tobytes())
    return stream.num_tokens


def _read(spool: BinaryIO, start: int, count: int) -> Ids:
    spool.seek(start * TOKEN_BYTES)
    return np.frombuffer(spool.read(count * TOKEN_BYTES), np.int32).astype(np.int64)


def _starts(total: int, count: int, seq_len: int, place: Place) -> list[int]:
    """Where windows begin. Even ones reach from the first token to the last, and a single one lies in the middle."""
    spare = total - count * seq_len
    if place == "last":
        return [spare + index * seq_len for index in range(count)]
    if count == 1:
        return [spare // 2]
    return [index * seq_len + spare * index // (count - 1) for index in range(count)]


def _runs(starts: Sequence[int], rows: Sequence[Ids]) -> Iterator[list[int]]:
    """The windows' tokens, those of windows that touch in one piece: a character may lie across their border."""
    run: list[int] = []
    for index, row_T in enumerate(rows):
        if run and starts[index] != starts[index - 1] + len(row_T):
            yield run
            run = []
        run += row_T.tolist()
    yield run


def _how_to_lower(total: int, seq_len: int) -> str:
    if total < seq_len:
        return "give more text, or lower check.num_tokens and check.seq_len"
    return f"give more text, or set check.num_tokens={total // seq_len * seq_len}"
