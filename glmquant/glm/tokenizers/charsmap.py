"""SentencePiece's normalization rule, expressed exactly as a ``tokenizers`` normalizer.

A model file carries its rule as a double-array trie from strings to strings (``precompiled_charsmap``). The longest
match wins and nothing is recomposed across matches (sentencepiece, ``normalizer.cc``; darts-clone for the trie).
``tokenizers`` has a ``Precompiled`` normalizer for it that works grapheme by grapheme and gives other results for
combining marks, half-width kana and Hangul letters. Here the matches are fenced off from each other first; within a
fence, mapping character by character and composing (NFC) gives what the rule says: verified for each of its entries.
"""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, normalizers

from glmquant.core.budget import Budget
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.files import TOKENIZER_JSON

Indices = npt.NDArray[np.int64]

FENCE: Final = "\ufff0"
GAP: Final = "\ufff1"
"""Never assigned by Unicode and never joined with a neighbor, so that text has neither and no rule touches them."""

SEPARATOR: Final = "\ue000"
"""For private use: keeps the cases of a check apart."""

LONGEST_KEY: Final = 64
MOST_ENTRIES: Final = 2**20
KNOWN_RULES: Final = frozenset(
    {
        "7e46d9e08af4b6a37991b04fb8388644c1595a0abcd0f26d6a5d575e2a3663ea",
        "1e2c7b43d3ee9755ceaa2ac335e253d8703604e0249ee1e81156c92b46423844",
        "d8dfef3d6db0eef0742f8b55a73aee7fce6c1e21d26a09b8d3d4b52c42a791cb",
        "2c03512e62f9ed965ec90d85314211b63b5b8aa0395311ea2147eec9ff738907",
    }
)
KNOWN_PATTERN: Final = "16d881e292fd7b2aa5bcdb8c96e379882c2740a9be6c74e257b2c59706246577"
KNOWN_GROWTH: Final = 18.0
"""sha256 of SentencePiece 0.2's own rules (nfkc, nmt_nfkc, nfkc_cf, nmt_nfkc_cf) and of the pattern that all four come
to: a rule of 225,000 entries takes a second to read, and a bundle with one would start so much later."""

MOST_CHARACTERS: Final = 2**24
MOST_MISSING: Final = 256
WHERE: Final = "tokenizer.model, normalizer_spec.precompiled_charsmap"


@lru_cache(maxsize=4)
def charsmap_normalizer(charsmap: bytes) -> normalizers.Normalizer:
    """The normalizer of a non-empty ``precompiled_charsmap``.

    Raises:
        CheckpointError: the trie is damaged, or its rule is not a character map followed by composition.
    """
    entries = read_charsmap(charsmap)
    if any(mark in key for key in entries for mark in (FENCE, GAP, SEPARATOR)):
        raise _damaged("an entry for a character without meaning")
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(_match_pattern(charsmap)), FENCE),
            normalizers.Replace(Regex(f"(?m)(?<=[^{FENCE}])(?=[^{FENCE}])"), GAP),
            normalizers.Precompiled(charsmap),
            normalizers.Replace(GAP, ""),
            *(normalizers.Replace(text, new) for text, new in _compositions_to_add(entries).items()),
            normalizers.NFC(),
            normalizers.Replace(FENCE, ""),
        ]
    )


def decoded_charsmap(text: Any) -> bytes:
    """The rule as ``tokenizer.json`` has it, in base64. Raises CheckpointError for what is not."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError("the tokenizer's normalization rule is not base64", where=TOKENIZER_JSON) from error


def growth(charsmap: bytes) -> float:
    """How many characters the rule may make of one. Raises CheckpointError for a damaged rule."""
    if _digest(charsmap) in KNOWN_RULES:
        return KNOWN_GROWTH
    return max((len(new) / len(old) for old, new in read_charsmap(charsmap).items() if old), default=1.0)


def is_match_pattern(pattern: str, charsmap: bytes) -> bool:
    """Whether :func:`charsmap_normalizer` fences the rule's matches off by this; see there for the errors."""
    if _digest(charsmap) in KNOWN_RULES:
        return _digest(pattern.encode()) == KNOWN_PATTERN
    return pattern == _match_pattern(charsmap)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@lru_cache(maxsize=4)
def _match_pattern(charsmap: bytes) -> str:
    return _after_each_match(read_charsmap(charsmap))


@lru_cache(maxsize=4)
def read_charsmap(charsmap: bytes) -> Mapping[str, str]:
    """Every entry of the rule: what is replaced, and by what.

    The layout is a little-endian uint32 size in bytes, that many bytes of trie, then zero-terminated UTF-8 strings.
    """
    size = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 8 or size % 4 or not 4 <= size <= len(charsmap) - 4:
        raise _damaged("the size of its trie")
    units = np.frombuffer(charsmap, "<u4", size // 4, 4).astype(np.int64)
    texts = charsmap[4 + size :]
    entries = {}
    keys = _walk(units)
    budget = Budget(MOST_CHARACTERS, "characters in a normalization rule", WHERE)
    try:
        texts.decode()
        for key, start in keys:
            end = texts.index(b"\0", start)
            budget.spend(len(key) + end - start)
            entries[key.decode()] = texts[start:end].decode()
    except CheckpointError:
        raise
    except ValueError as error:
        raise _damaged("an entry of its trie") from error
    return entries


def _walk(units: Indices) -> list[tuple[bytes, int]]:
    """Keys of a darts-clone double array with their values, level by level.

    A unit's low byte is its label and its index is its parent's base XOR that label; bit 8 says that the node ends a
    key, whose value then lies at its own base.
    """
    labels = units & 0x800000FF
    children = np.nonzero((labels > 0) & (labels < 256))[0]
    parents = children ^ labels[children]
    order = np.argsort(parents)
    children, parents = children[order], parents[order]
    found: list[tuple[bytes, int]] = []
    names, bases = [b""], _bases(units, np.zeros(1, dtype=np.int64))
    for _ in range(LONGEST_KEY):
        first = np.searchsorted(parents, bases)
        counts = np.searchsorted(parents, bases, side="right") - first
        if not counts.any():
            return found
        if counts.sum() + len(found) > MOST_ENTRIES:
            break
        rows = np.repeat(np.arange(len(bases)), counts)
        nodes = children[np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + first[rows]]
        names = [names[row] + _BYTES[label] for row, label in zip(rows.tolist(), labels[nodes].tolist(), strict=True)]
        bases = _bases(units, nodes)
        ends = np.nonzero(units[nodes] >> 8 & 1)[0]
        values = units[bases[ends]] & 0x7FFFFFFF
        found += [(names[end], value) for end, value in zip(ends.tolist(), values.tolist(), strict=True)]
    raise _damaged("the shape of its trie")


_BYTES: Final = [bytes([byte]) for byte in range(256)]


def _bases(units: Indices, nodes: Indices) -> Indices:
    """Where the children of ``nodes`` are counted from; bit 9 widens the offset."""
    taken = units[nodes]
    bases: Indices = nodes ^ (taken >> 10) << ((taken & 1 << 9) >> 6)
    if (bases | 0xFF >= len(units)).any():
        raise _damaged("a node of its trie")
    return bases


def _after_each_match(entries: Mapping[str, str]) -> str:
    """A pattern that matches, with no width, after each entry of several characters and each other character."""
    keys = frozenset(key for key in entries if len(key) > 1)
    if not keys:
        return r"(?m).\K"
    seconds = _char_class(sorted({key[1] for key in keys}))
    return rf"(?m)(?:(?=.{seconds}){_one_of(keys)}|.)\K"


def _one_of(keys: frozenset[str]) -> str:
    """A pattern for the longest of ``keys``; heads with the same tails share a branch."""
    tails: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        if key:
            tails[key[0]].add(key[1:])
    heads: dict[frozenset[str], list[str]] = defaultdict(list)
    for head in sorted(tails):
        heads[frozenset(tails[head])].append(head)
    if not heads:
        return ""
    branches = "|".join(_char_class(chars) + _one_of(rest) for rest, chars in heads.items())
    return f"(?:{branches})" + ("?" if "" in keys else "")


def _char_class(chars: list[str]) -> str:
    """``chars``, sorted, as a character class of ranges."""
    points = np.array([ord(char) for char in chars])
    runs = np.split(points, np.nonzero(np.diff(points) != 1)[0] + 1)
    return "[" + "".join(rf"\x{{{run[0]:x}}}-\x{{{run[-1]:x}}}" for run in runs) + "]"


def _compositions_to_add(entries: Mapping[str, str]) -> dict[str, str]:
    """What mapping each character of a match and NFC leave to do: compositions younger than ``tokenizers``' tables.

    Checks every entry, and every character that the rule keeps.
    """
    kept = (chr(point) for point in (*range(0x300, 0xD800), *range(0xF900, 0x30000)))
    cases = {**entries} | {char: char for char in kept if char not in entries}
    mapped = ["".join(entries.get(char, char) for char in text) for text in cases]
    wanted = list(cases.values())
    joined = SEPARATOR.join(mapped)
    rows = zip(mapped, _composed(joined), wanted, strict=True)
    wrong = {text: new for text, got, new in rows if got != new}
    longest_first = sorted(wrong, key=lambda text: (-len(text), text))
    for text in longest_first[:MOST_MISSING]:
        joined = joined.replace(text, wrong[text])
    if _composed(joined) != wanted:
        raise CheckpointError(
            "the tokenizer's normalization rule is one of its own",
            where=WHERE,
            expected="a map of characters followed by composition, as in nfkc, nmt_nfkc and their case-folded forms",
        )
    return {text: wrong[text] for text in longest_first}


def _composed(joined: str) -> list[str]:
    return normalizers.NFC().normalize_str(joined).split(SEPARATOR)


def _damaged(part: str) -> CheckpointError:
    return CheckpointError(
        f"the tokenizer's normalization rule is damaged: {part} is wrong",
        where=WHERE,
        hint="fetch the file again",
    )
