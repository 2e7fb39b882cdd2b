"""Text to evaluate on, cut into windows.

Shape suffixes: T tokens of a window, prefix included.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glmquant.core.protocols import Tokenizer
from glmquant.data.tokens import Ids, TokenStream
from glmquant.errors import CheckError


@dataclass(frozen=True, eq=False)
class EvaluationText:
    """The end of a text, in windows.

    Attributes:
        name: the file's name without directories.
        windows: each ``[T]``: the tokenizer's prefix, then ``seq_len`` tokens of the text; consecutive, no overlap.
        num_scored: tokens scored in each window: its last ``seq_len - 1``. The prefix is never scored, nor is the
            first token after it, so that tokenizers with and without a prefix are scored alike.
        bytes_per_token: UTF-8 bytes of the text in the windows over its tokens.
    """

    name: str
    windows: tuple[Ids, ...]
    num_scored: int
    bytes_per_token: float


def last_windows(path: Path, tokenizer: Tokenizer, *, num_tokens: int, seq_len: int) -> EvaluationText:
    """Windows over the last ``num_tokens // seq_len * seq_len`` tokens of a text.

    Raises:
        DataError: a file that cannot be read.
        CheckError: the text is too short; it says how many tokens there are and how many are needed.
    """
    count = num_tokens // seq_len
    stream = TokenStream(path, tokenizer)
    tail_T = stream.last(count * seq_len)
    if count < 1 or len(tail_T) < count * seq_len:
        raise CheckError(
            f"too little text to evaluate on: {path.name} has {stream.num_tokens:,} tokens; "
            f"{max(count, 1) * seq_len:,} are needed",
            where=path,
            hint="give more text, or lower check.num_tokens",
        )
    prefix_T = np.asarray(tokenizer.prefix_ids, dtype=np.int64)
    windows = tuple(np.concatenate([prefix_T, row]) for row in tail_T.reshape(count, seq_len))
    num_bytes = len(tokenizer.decode(tail_T.tolist()).encode())
    if num_bytes == 0:
        raise CheckError("the text's tokens decode to nothing", where=path, hint="is the tokenizer the model's own?")
    return EvaluationText(path.name, windows, seq_len - 1, num_bytes / len(tail_T))
