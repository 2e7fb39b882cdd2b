"""SentencePiece models rebuilt: ids and text as the library's own."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.charsmap import FENCE, GAP
from glmquant.glm.tokenizers.sentencepiece_model import sentencepiece_tokenizer, special_pieces
from tests.glm.tokenizers.hard_strings import HARD_STRINGS
from tests.support.golden import NAMES, directory

PATH = Path("model/tokenizer.model")
LINES = (directory("chatglm2-tiny").parent / "README.md").read_text().splitlines()


@cache
def content(name: str) -> bytes:
    return (directory(name) / "tokenizer.model").read_bytes()


@cache
def pair(name: str) -> tuple[Tokenizer, sentencepiece.SentencePieceProcessor]:
    return both(content(name))


def both(model: bytes) -> tuple[Tokenizer, sentencepiece.SentencePieceProcessor]:
    return sentencepiece_tokenizer(model, PATH), sentencepiece.SentencePieceProcessor(model_proto=model)


def train(**options: Any) -> bytes:
    """A small model on the repository's own prose."""
    model = io.BytesIO()
    defaults = {"model_type": "bpe", "vocab_size": 400, "byte_fallback": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*LINES, "你好世界"] * 2), model_writer=model, **defaults | options
    )
    return model.getvalue()


def edited(**fields: Any) -> bytes:
    """The golden ChatGLM2 model with fields of its normalizer, trainer or pieces changed."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(content("chatglm2-tiny"))
    for name, value in fields.items():
        section, field = name.split("__")
        setattr(proto.pieces[300] if section == "piece" else getattr(proto, section), field, value)
    return proto.SerializeToString()


@pytest.mark.parametrize("name", NAMES)
def test_hard_strings_tokenize_and_decode_as_sentencepiece_does(name: str) -> None:
    assert len(HARD_STRINGS) >= 200
    ours, theirs = pair(name)
    for text in HARD_STRINGS:
        ids = theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False).ids == ids, text
        assert ours.decode(ids) == theirs.decode(ids), text


ANY = st.characters(exclude_categories=["Cs"], exclude_characters=["\0", FENCE, GAP])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(ANY), st.text(" abeht▁你。\n", max_size=30), st.sampled_from(LINES)))
def test_any_text_tokenizes_and_decodes_as_sentencepiece_does(name: str, text: str) -> None:
    ours, theirs = pair(name)
    ids = theirs.encode(text)
    assert ours.encode(text, add_special_tokens=False).ids == ids
    assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize(
    "options",
    [
        {"add_dummy_prefix": False},
        {"add_dummy_prefix": False, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"normalization_rule_name": "nfkc_cf"},
        {"byte_fallback": False},
        {"user_defined_symbols": ["<code>", "▁▁▁", "你好吗"], "remove_extra_whitespaces": False},
        {"user_defined_symbols": ["<a>", "<a><b>"]},
    ],
)
def test_what_a_model_says_about_normalization_and_pieces_is_followed(options: dict[str, Any]) -> None:
    ours, theirs = both(train(**options))
    for text in (*HARD_STRINGS, *LINES, "x<code>  y    你好吗<code>", "<a><b><a>b<a>", "A <A>"):
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text), text


def test_special_pieces_are_the_unknown_and_control_pieces() -> None:
    assert special_pieces(content("chatglm2-tiny"), PATH) == ["<unk>", "<s>", "</s>"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trainer_spec__model_type": 1}, "BPE"),
        ({"trainer_spec__treat_whitespace_as_suffix": True}, "end of words"),
        ({"normalizer_spec__escape_whitespaces": False}, "escape"),
        ({"denormalizer_spec__precompiled_charsmap": b"x"}, "decoding"),
        ({"normalizer_spec__precompiled_charsmap": b"x"}, "normalization rule is damaged"),
        ({"piece__type": 5}, "unused pieces"),
        ({"piece__type": 2}, "2 unknown pieces"),
        ({"piece__type": 6}, "257 byte pieces"),
        ({"piece__piece": "a" * 300}, "far too long"),
        ({"piece__piece": "▁t"}, "one twice"),
        ({"piece__piece": ""}, "empty piece"),
    ],
)
def test_kinds_that_are_not_implemented_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        sentencepiece_tokenizer(edited(**changes), PATH)
    assert "tokenizer.model" in str(caught.value)


@pytest.mark.parametrize("damaged", [b"\xff\xff\xff", b"", b"not a model", content("chatglm2-tiny")[:1000]])
def test_damaged_models_are_refused(damaged: bytes) -> None:
    with pytest.raises(CheckpointError, match="tokenizer"):
        sentencepiece_tokenizer(damaged, PATH)
