"""Normalization rules against SentencePiece itself."""

import struct
import unicodedata
from functools import cache

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.charsmap import FENCE, GAP, charsmap_normalizer, read_charsmap
from tests.glm.tokenizers.hard_strings import HARD_STRINGS


@cache
def rule(name: str) -> tuple[sentencepiece.SentencePieceNormalizer, bytes]:
    """SentencePiece's own normalizer of that name, and its compiled map."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(sentencepiece.SentencePieceNormalizer(rule_name=name).serialized_model_proto())
    spec = proto.normalizer_spec
    spec.add_dummy_prefix = spec.escape_whitespaces = spec.remove_extra_whitespaces = False
    normalizer = sentencepiece.SentencePieceNormalizer(model_proto=proto.SerializeToString())
    return normalizer, spec.precompiled_charsmap


@pytest.mark.parametrize("name", ["nmt_nfkc", "nfkc", "nmt_nfkc_cf"])
def test_hard_strings_normalize_as_sentencepiece_does(name: str) -> None:
    theirs, charsmap = rule(name)
    ours = charsmap_normalizer(charsmap)
    assert [ours.normalize_str(text) for text in HARD_STRINGS] == [theirs.normalize(text) for text in HARD_STRINGS]


def test_every_entry_of_the_rule_comes_out() -> None:
    _, charsmap = rule("nmt_nfkc")
    entries = read_charsmap(charsmap)
    assert len(entries) > 200_000
    sample = list(entries)[::20]
    joined = charsmap_normalizer(charsmap).normalize_str("\ue000".join(sample))
    assert joined.split("\ue000") == [entries[key] for key in sample]


MARKS = st.characters(categories=["Mn", "Mc"])
JAMO = st.characters(min_codepoint=0x1100, max_codepoint=0x11FF)
SYLLABLES = st.characters(min_codepoint=0xAC00, max_codepoint=0xAC40)
HALFWIDTH = st.characters(min_codepoint=0xFF00, max_codepoint=0xFFEF)
LETTERS = st.characters(max_codepoint=0x250, exclude_characters="\0")
ANY = st.characters(exclude_categories=["Cs"], exclude_characters=["\0", FENCE, GAP])


@settings(max_examples=300, deadline=None)
@given(st.text(st.one_of(LETTERS, MARKS, JAMO, SYLLABLES, HALFWIDTH, ANY), max_size=12))
def test_any_text_normalizes_as_sentencepiece_does(text: str) -> None:
    theirs, charsmap = rule("nmt_nfkc")
    assert charsmap_normalizer(charsmap).normalize_str(text) == theirs.normalize(text)


def test_marks_in_another_order_stay_apart() -> None:
    _, charsmap = rule("nfkc")
    normalizer = charsmap_normalizer(charsmap)
    text = "a\u0302\u0323"
    assert normalizer.normalize_str(text) == "\u00e2\u0323"
    assert unicodedata.normalize("NFKC", text) == "\u1ead"


def small_map(entries: dict[bytes, bytes]) -> bytes:
    """A double array of one-byte keys, laid out by hand."""
    units = [0] * 1024
    units[0] = 256 << 10
    values = b""
    for place, (key, value) in enumerate(entries.items()):
        (label,) = key
        node = 256 ^ label
        base = 512 + 2 * place
        units[node] = (node ^ base) << 10 | 1 << 8 | label
        units[base] = 1 << 31 | len(values)
        values += value + b"\0"
    return struct.pack("<I1024I", 4096, *units) + values


def test_a_map_laid_out_by_hand() -> None:
    charsmap = small_map({b"a": b"b", b"\x01": b"", b"z": b"ae"})
    assert read_charsmap(charsmap) == {"a": "b", "\x01": "", "z": "ae"}


def test_a_rule_that_is_no_composition_is_refused() -> None:
    with pytest.raises(CheckpointError, match="one of its own"):
        charsmap_normalizer(small_map({b"a": b"b"}))


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x01",
        b"\xff\xff\xff\x7f" + b"\0" * 8,
        b"\x00\x00\x00\x00" + b"\0" * 8,
        struct.pack("<II", 4, 1 << 10),
        small_map({b"a": b"b"})[:-3],
        small_map({b"\xff": b"b"}),
    ],
)
def test_damaged_maps_are_refused(damaged: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"damaged|one of its own"):
        charsmap_normalizer(damaged)


def test_a_trie_that_loops_is_refused() -> None:
    units = [0] * 1024
    units[0] = 256 << 10
    node = 256 ^ ord("a")
    units[node] = (node ^ 256) << 10 | ord("a")
    with pytest.raises(CheckpointError, match="shape of its trie"):
        read_charsmap(struct.pack("<I1024I", 4096, *units))
