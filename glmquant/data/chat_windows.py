"""Conversations to measure perplexity on, one window each.

Shape suffixes: T tokens of a window, R its last tokens, from the first scored one on.
"""

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from glmquant.core.protocols import Tokenizer
from glmquant.data.chat_tokens import ChatEncoder, Mask
from glmquant.data.reading import USUAL, Reading
from glmquant.data.sequences import Ids
from glmquant.data.text import Conversation, read_conversations
from glmquant.errors import CheckError

Scored = Literal["all", "answers"]


@dataclass(frozen=True, eq=False)
class EvaluationChats:
    """Conversations of a file, written by the model's chat template.

    Attributes:
        name: the file's name without directories.
        windows: each int64 ``[T]``: a conversation from its beginning, the prefix among it, cut to ``seq_len`` tokens
            and the prefix.
        scored: for each window bool ``[R]``: which of its last tokens are scored; the first of them is.
        num_bytes: UTF-8 bytes of each window's scored tokens.
        num_tokens: of all conversations, as they are cut.
        sha256: of all their tokens, whole, as of a :class:`glmquant.data.windows.TokenStream`.
    """

    name: str
    windows: tuple[Ids, ...] = field(repr=False)
    scored: tuple[Mask, ...] = field(repr=False)
    num_bytes: tuple[int, ...] = field(repr=False)
    num_tokens: int
    sha256: str


@dataclass(frozen=True, eq=False, order=False)
class _Chosen:
    """A conversation of the file, its tokens, and the hash of its place that it is chosen by."""

    key: bytes
    number: int
    chat: Conversation
    ids: Ids

    def __lt__(self, other: "_Chosen") -> bool:
        """The largest key first out of a heap."""
        return self.key > other.key


def read_chats(
    path: Path,
    tokenizer: Tokenizer,
    *,
    num_tokens: int,
    seq_len: int,
    scored: Scored = "all",
    reading: Reading = USUAL,
) -> EvaluationChats:
    """Conversations of a file, chosen by a hash of their place until they hold ``num_tokens`` tokens, in file order.

    With ``all``, every token behind the prefix is scored but the first; with ``answers``, those of the assistant, the
    end of each answer included.

    Raises:
        DataError: a file that cannot be read, records that are no conversations, or turns that the template refuses.
        CheckpointError: a tokenizer without a chat template.
        CheckError: too few tokens, or none that is scored.
    """
    encoder = ChatEncoder(tokenizer)
    digest = hashlib.sha256()
    chosen, total = _choose(_encoded(path, encoder, tokenizer, seq_len, reading, digest), num_tokens)
    if total < num_tokens:
        raise CheckError(
            f"too few conversations to evaluate on: {path.name} has {total:,} tokens; {num_tokens:,} are needed",
            where=path,
            hint=f"give more, or set check.num_tokens={total}"
            if total >= seq_len
            else "give more, or lower check.num_tokens and check.seq_len",
        )
    windows, masks, sizes = [], [], []
    for each in chosen:
        mask_T = _scored(each, encoder, tokenizer, scored)
        if not mask_T.any():
            continue
        first = int(mask_T.argmax())
        windows.append(each.ids)
        masks.append(mask_T[first:])
        sizes.append(len(tokenizer.decode(each.ids[mask_T].tolist()).encode()))
    if not sum(sizes):
        raise CheckError(
            "no token of the conversations is scored", where=path, hint="raise check.seq_len, or set check.scored=all"
        )
    return EvaluationChats(path.name, tuple(windows), tuple(masks), tuple(sizes), total, digest.hexdigest())


def _encoded(
    path: Path, encoder: ChatEncoder, tokenizer: Tokenizer, seq_len: int, reading: Reading, digest: "hashlib._Hash"
) -> Iterator[tuple[Conversation, Ids]]:
    for document in read_conversations(path, reading):
        ids_T = encoder.ids(document.turns, document.where, document.tools)
        prefix = _prefix(ids_T, tokenizer)
        digest.update(ids_T[prefix:].astype("<i4").tobytes())
        yield document, ids_T[: prefix + seq_len].copy()


def _choose(chats: Iterator[tuple[Conversation, Ids]], num_tokens: int) -> tuple[list[_Chosen], int]:
    """The conversations of the smallest keys that hold ``num_tokens``, and the tokens of all."""
    heap: list[_Chosen] = []
    held = total = 0
    for number, (chat, ids_T) in enumerate(chats):
        total += len(ids_T)
        held += len(ids_T)
        key = hashlib.blake2b(str(number).encode(), digest_size=16).digest()
        heapq.heappush(heap, _Chosen(key, number, chat, ids_T))
        while held - len(heap[0].ids) >= num_tokens:
            held -= len(heapq.heappop(heap).ids)
    return sorted(heap, key=lambda each: each.number), total


def _scored(chosen: _Chosen, encoder: ChatEncoder, tokenizer: Tokenizer, scored: Scored) -> Mask:
    """Which tokens of a window are scored: bool ``[T]``; never the first, which nothing predicts."""
    ids_T = chosen.ids
    if scored == "answers":
        chat = chosen.chat
        whole_T = encoder.ids(chat.turns, chat.where, chat.tools)
        mask_T = encoder.answers(chat.turns, whole_T, chat.where, len(ids_T), chat.tools)[: len(ids_T)]
    else:
        mask_T = np.ones(len(ids_T), dtype=bool)
        mask_T[: _prefix(ids_T, tokenizer) + 1] = False
    mask_T[:1] = False
    return mask_T


def _prefix(ids_T: Ids, tokenizer: Tokenizer) -> int:
    """Tokens of the prefix that a conversation starts with."""
    prefix_T = np.asarray(tokenizer.prefix_ids, dtype=np.int64)
    return len(prefix_T) if np.array_equal(ids_T[: len(prefix_T)], prefix_T) else 0
