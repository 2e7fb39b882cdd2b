"""GLM-4's tokenizer rebuilt: ids and text as tiktoken's own."""

import base64
import json
from functools import cache
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.chat import Message
from glmquant.glm.tokenizers.tiktoken_model import tiktoken_tokenizer
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, StreamDecoder, load_tokenizer
from tests.glm.tokenizers.hard_strings import HARD_STRINGS
from tests.support.glm4 import PROSE, SPECIALS, model_file, ranks, write_tokenizer

PATH = Path("model/tokenizer.model")
PUBLISHED_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FIRST = 600


@cache
def pair() -> tuple[Tokenizer, tiktoken.Encoding]:
    theirs = tiktoken.Encoding("glm4", pat_str=PUBLISHED_PATTERN, mergeable_ranks=ranks(), special_tokens={})
    return tiktoken_tokenizer(model_file(), PATH), theirs


def test_hard_strings_tokenize_and_decode_as_tiktoken_does() -> None:
    ours, theirs = pair()
    for text in (*HARD_STRINGS, *PROSE.splitlines(), PROSE):
        ids = theirs.encode_ordinary(text)
        assert ours.encode(text).ids == ids, text
        assert ours.decode(ids) == theirs.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.text(" \n\r\t'sſKdlL1٣你", max_size=30), st.text("abeht ", max_size=40)))
def test_any_text_tokenizes_as_tiktoken_does(text: str) -> None:
    ours, theirs = pair()
    assert ours.encode(text).ids == theirs.encode_ordinary(text)


@given(st.lists(st.integers(0, FIRST - 1), max_size=12))
def test_any_ids_decode_as_tiktoken_does(ids: list[int]) -> None:
    ours, theirs = pair()
    assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("declare", [True, False])
def test_a_checkpoint_of_glm4(tmp_path: Path, declare: bool) -> None:
    config = write_tokenizer(tmp_path, declare=declare)
    ours = load_tokenizer(tmp_path, config)
    _, theirs = pair()
    assert ours.vocab_size == FIRST + 14
    assert (ours.prefix_ids, ours.pad_id) == ((FIRST + 2, FIRST + 4), FIRST)
    assert ours.eos_ids == (FIRST, FIRST + 7, FIRST + 9)
    assert ours.encode("<|user|>你好[gMASK]") == theirs.encode_ordinary("<|user|>你好[gMASK]")
    messages = [Message("system", "Be brief."), Message("user", "你好 <|user|>"), Message("assistant", "x", "tool")]
    expected = [FIRST + 2, FIRST + 4]
    for role, index in zip(("system", "user", "assistant"), (6, 7, 8), strict=True):
        message = messages[index - 6]
        expected += [FIRST + index, *theirs.encode_ordinary(f"{message.metadata}\n")]
        expected += theirs.encode_ordinary(message.content)
        assert message.role == role
    assert ours.apply_chat_template(messages) == [*expected, FIRST + 8]


def test_transformers_gives_the_same_ids(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours = load_tokenizer(tmp_path, write_tokenizer(tmp_path))
    saved = tmp_path / "saved"
    saved.mkdir()
    ours.save(saved)
    (saved / "config.json").write_text('{"model_type": "glm"}')
    theirs = AutoTokenizer.from_pretrained(saved, local_files_only=True)
    for text in HARD_STRINGS:
        assert theirs(text, split_special_tokens=True)["input_ids"] == [*ours.prefix_ids, *ours.encode(text)], text
    turns = [{"role": "user", "content": "你好, people"}]
    text = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.apply_chat_template(
        [Message("user", turns[0]["content"])]
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    where = tmp_path_factory.mktemp("glm4")
    return load_tokenizer(where, write_tokenizer(where))


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(st.text(), st.sampled_from(HARD_STRINGS)))
def test_streamed_text_is_the_text(small: GlmTokenizer, text: str) -> None:
    stream = StreamDecoder(small)
    assert "".join([stream.push(index) for index in small.encode(text)]) + stream.finish() == text


LINES = model_file().splitlines(keepends=True)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x0a\x0f\x0a\x05<unk>\x15",
        b"".join(LINES[:-2] + LINES[-1:]),
        b"".join(LINES[1:]),
        b"".join([*LINES, LINES[0]]),
        b"".join([*LINES, b"YWI= x\n"]),
        b"".join([*LINES, b"\n"]),
        b"".join([*LINES, b"!!! 600\n"]),
        b"".join([*LINES, base64.b64encode(b"a" * 600) + b" 600\n"]),
        b"".join([*LINES, base64.b64encode(b"zzzzzz") + b" 6000000000\n"]),
        b"".join([*LINES, base64.b64encode(b"zzzzzz") + b" " + b"9" * 5000 + b"\n"]),
    ],
    ids=range(11),
)
def test_damaged_files_are_refused(damaged: bytes) -> None:
    with pytest.raises(CheckpointError, match="tokenizer") as caught:
        tiktoken_tokenizer(damaged, PATH)
    assert "tokenizer.model" in str(caught.value)


@pytest.mark.parametrize(
    "declared",
    [
        '{"600": {"content": "[gMASK]"}, "601": {"content": "[gMASK]"}}',
        '{"600": "[gMASK]"}',
        '{"600": {"content": ""}}',
        '{"six": {"content": "[gMASK]"}}',
        "[1]",
    ],
)
def test_special_tokens_that_are_declared_wrongly_are_refused(tmp_path: Path, declared: str) -> None:
    config = write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(f'{{"added_tokens_decoder": {declared}}}')
    with pytest.raises(CheckpointError, match=r"not as transformers writes them|contradict each other"):
        load_tokenizer(tmp_path, config)


def test_special_tokens_may_leave_gaps_as_in_transformers(tmp_path: Path) -> None:
    config = write_tokenizer(tmp_path)
    declared = {str(FIRST + i): {"content": token} for i, token in enumerate(SPECIALS) if i != 1}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": declared}))
    ours = load_tokenizer(tmp_path, config)
    assert (ours.prefix_ids, ours.token(FIRST + 1)) == ((FIRST + 2, FIRST + 4), f"<|unused_{FIRST + 1}|>")


def test_an_empty_declaration_is_none(tmp_path: Path) -> None:
    """What transformers writes for a tokenizer without added tokens."""
    config = write_tokenizer(tmp_path, declare=False)
    expected = load_tokenizer(tmp_path, config).sha256
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}}')
    assert load_tokenizer(tmp_path, config).sha256 == expected


def test_a_tokenizer_without_the_prefix_tokens_is_refused(tmp_path: Path) -> None:
    config = write_tokenizer(tmp_path)
    others = {str(FIRST + i): {"content": token.replace("gMASK", "g")} for i, token in enumerate(SPECIALS)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": others}))
    with pytest.raises(CheckpointError, match="every input starts with"):
        load_tokenizer(tmp_path, config)
