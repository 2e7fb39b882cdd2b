"""GLM-4's ``tokenizer.model``: tiktoken ranks, rebuilt as a ``tokenizers`` byte-level BPE.

Each line is a token's bytes in base64 and its rank, which is also its id. tiktoken cuts a text by a pattern, takes a
cut that is itself a token as it is, and else merges the neighbors whose joined bytes rank lowest, leftmost first. A
merge list in rising rank, with whole cuts looked up first, does the same.
"""

import base64
import binascii
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from glmquant.core.placeholders import fetch_again
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.merges import joined_pairs, merges_budget
from glmquant.glm.tokenizers.pieces import byte_letters

PATTERN: Final = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How ``tokenization_chatglm.py`` of THUDM/glm-4-9b cuts a text; the model file does not say it."""

LONGEST_TOKEN: Final = 512
SENTENCEPIECE: Final = b"\n\x0e\n\x05<unk>"
"""How ChatGLM2's and ChatGLM3's ``tokenizer.model`` begin."""


def tiktoken_tokenizer(content: bytes, path: Path) -> Tokenizer:
    """The tokenizer that a file of ranks describes.

    Args:
        content: the bytes of ``tokenizer.model``.
        path: what errors name.

    Raises:
        CheckpointError: a line that is not a token and its rank, ranks with gaps, or a byte without a token.
    """
    ranks = _read_ranks(content, path)
    letters = byte_letters()
    names = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    model = models.BPE(vocabulary, _merges(ranks, names, path), ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_ranks(content: bytes, path: Path) -> dict[bytes, int]:
    if content.startswith(SENTENCEPIECE):
        raise CheckpointError(
            "the tokenizer is a SentencePiece model, as ChatGLM2, ChatGLM3 and CodeGeeX2 have it",
            where=path,
            expected="a list of ranks, as GLM-4 has",
            hint=f"if this is GLM-4, {fetch_again(path)}; if not, set model.family to the one it is of",
        )
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        parts = line.split()
        try:
            encoded, rank = parts
            token = base64.b64decode(encoded, validate=True)
            ranks[token] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(
                "the tokenizer has a line that is no token",
                where=f"{path}, line {number}",
                expected="a token's bytes in base64, a space, and its rank",
                hint=fetch_again(path),
            ) from error
        if not 0 < len(token) <= LONGEST_TOKEN or len(ranks) != number:
            raise CheckpointError(
                "the tokenizer has an empty token, one that is far too long, or one twice",
                where=f"{path}, line {number}",
                hint=fetch_again(path),
            )
    if set(ranks.values()) != set(range(len(ranks))) or not all(bytes([byte]) in ranks for byte in range(256)):
        raise CheckpointError(
            "the tokenizer's ranks have gaps, or a byte has no token",
            where=path,
            expected="ranks from 0 without a gap, and all 256 bytes",
            hint=fetch_again(path),
        )
    return ranks


def _merges(ranks: dict[bytes, int], names: dict[bytes, str], path: Path) -> list[tuple[str, str]]:
    """Every pair of tokens that joins to a token, lowest rank first."""
    merges, budget = [], merges_budget(path)
    for token in sorted(ranks, key=ranks.__getitem__):
        merges += [(names[left], names[right]) for left, right in joined_pairs(token, ranks, budget)]
    return merges
