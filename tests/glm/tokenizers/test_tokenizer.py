"""Tokenizers of checkpoints: the publisher's own ids and text, and what transformers makes of the files written."""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from glmquant.errors import CheckpointError, DataError
from glmquant.glm.config import GlmConfig
from glmquant.glm.tokenizers.charsmap import FENCE, GAP
from glmquant.glm.tokenizers.chat import Message
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, StreamDecoder, load_tokenizer
from tests.glm.tokenizers.hard_strings import HARD_STRINGS
from tests.support.golden import NAMES, config, directory, expected_tokens, tokenizer

CONVERSATION = [
    Message("user", "你好"),
    Message("assistant", "Hi <|user|> there!"),
    Message("user", " people\n[gMASK] sop "),
]


@pytest.mark.parametrize("name", NAMES)
def test_publishers_ids_and_text(name: str) -> None:
    expected, ours = expected_tokens(name), tokenizer(name)
    assert ours.vocab_size == expected["n_words"]
    assert ours.prefix_ids == tuple(expected["prefix"])
    assert len(expected["cases"]) == 16
    for case in expected["cases"]:
        assert ours.encode(case["text"]) == case["ids_without_prefix"]
        assert ours.decode(case["ids_without_prefix"]) == case["decoded"]


def test_special_ids() -> None:
    chatglm2, chatglm3 = (tokenizer(name) for name in NAMES)
    assert (chatglm2.prefix_ids, chatglm2.pad_id, chatglm2.eos_ids) == ((2044, 2046), 0, (2,))
    assert (chatglm3.prefix_ids, chatglm3.pad_id, chatglm3.eos_ids) == ((2044, 2046), 0, (2, 2049, 2051))
    assert chatglm3.decode([2044, 2046, 2049, 260, 2]) == "a"
    assert chatglm3.decode([2044, 2046, 2049, 260, 2], skip_special_tokens=False) == "[gMASK]sop<|user|> a</s>"


def test_special_tokens_in_text_are_text() -> None:
    for name in NAMES:
        for text in ("[gMASK]", "sop", "<|user|>", "</s>", "<0x0A>"):
            assert max(tokenizer(name).encode(text)) < 2043
            assert tokenizer(name).decode(tokenizer(name).encode(text)) == text


@pytest.mark.parametrize("text", ["  two  spaces ", "tab\there\n\n", "emoji 👍🏽 龘", "e\u0301 ＡＢ", ""])
def test_text_survives_where_nothing_is_normalized(text: str) -> None:
    ours = tokenizer("chatglm2-tiny")
    assert ours.decode(ours.encode(text)) == text


@cache
def loaded(name: str, where: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer(name).save(where)
    (where / "config.json").write_text(json.dumps({"model_type": "glm"}))
    return AutoTokenizer.from_pretrained(where, local_files_only=True)


@pytest.fixture(scope="module", params=NAMES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[GlmTokenizer, Any]:
    name: str = request.param
    return tokenizer(name), loaded(name, tmp_path_factory.mktemp(name))


def test_transformers_gives_the_same_ids(both: tuple[GlmTokenizer, Any]) -> None:
    ours, theirs = both
    for text in HARD_STRINGS:
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ids == [*ours.prefix_ids, *ours.encode(text)], text
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids), text


def test_bare_words_are_no_special_tokens_inside_words(both: tuple[GlmTokenizer, Any]) -> None:
    ours, theirs = both
    text = "people philosophy soporific"
    assert theirs(text)["input_ids"] == [*ours.prefix_ids, *ours.encode(text)]


def test_transformers_pads_on_the_left(both: tuple[GlmTokenizer, Any]) -> None:
    ours, theirs = both
    batch = theirs(["a", "a a a"], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"][0] == [0, 0, 1, 1, 1]
    assert batch["input_ids"][0] == [0, 0, *ours.prefix_ids, *ours.encode("a")]
    assert theirs.model_max_length == 2048
    assert (theirs.pad_token, theirs.eos_token) == ("<unk>", "</s>")


def test_transformers_ends_a_pair_and_only_a_pair(both: tuple[GlmTokenizer, Any]) -> None:
    ours, theirs = both
    a = ours.encode("a")
    assert theirs("a", "a")["input_ids"] == [*ours.prefix_ids, *a, *a, 2]


def test_transformers_gives_the_same_templated_ids(both: tuple[GlmTokenizer, Any]) -> None:
    ours, theirs = both
    messages = [Message("user", "你好"), Message("assistant", " I am\n\nfine. "), Message("user", "people 👍🏽")]
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.apply_chat_template(messages)


def test_chatglm3_tools_stand_in_the_system_message(tmp_path: Path) -> None:
    ours, theirs = tokenizer("chatglm3-tiny"), loaded("chatglm3-tiny", tmp_path)
    tools = [{"name": "天气", "parameters": {"city": "string"}}]
    turns = [
        {"role": "system", "content": "Answer with tools:", "tools": tools},
        {"role": "observation", "content": "晴"},
    ]
    text = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    system = "Answer with tools:\n" + json.dumps(tools, indent=4, ensure_ascii=False)
    expected = [*ours.prefix_ids, 2048, *ours.encode("\n"), *ours.encode(system), 2051, *ours.encode("晴"), 2050]
    assert theirs(text, add_special_tokens=False)["input_ids"] == expected


@pytest.mark.parametrize("name", NAMES)
def test_saved_files_load_as_the_same_tokenizer(name: str, tmp_path: Path) -> None:
    ours = tokenizer(name)
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path, replace(config(name), family="glm"))
    assert again.sha256 == ours.sha256
    assert (again.prefix_ids, again.chat_template) == (ours.prefix_ids, ours.chat_template)
    assert [again.encode(text) for text in HARD_STRINGS] == [ours.encode(text) for text in HARD_STRINGS]
    assert again.apply_chat_template(CONVERSATION) == ours.apply_chat_template(CONVERSATION)
    second = tmp_path / "again"
    second.mkdir()
    again.save(second)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (second / file).read_bytes() == (tmp_path / file).read_bytes()


def test_digests_differ_where_ids_do() -> None:
    assert len({tokenizer(name).sha256 for name in NAMES}) == 2


ANY = st.characters(exclude_categories=["Cs"], exclude_characters=["\0", FENCE, GAP])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(ANY), st.text("ab ▁\n你👍é", max_size=20), st.sampled_from(HARD_STRINGS)))
def test_streamed_text_is_the_decoded_text(name: str, text: str) -> None:
    ours = tokenizer(name)
    ids = ours.encode(text)
    stream = StreamDecoder(ours)
    parts = [stream.push(index) for index in ids]
    assert "".join(parts) + stream.finish() == ours.decode(ids)
    assert not any(part.endswith("\ufffd") for part in parts)


def test_a_stream_holds_back_half_a_character() -> None:
    stream = StreamDecoder(tokenizer("chatglm2-tiny"))
    assert [stream.push(index) for index in (1881, 231, 192, 163, 1881, 260, 231)] == ["", "", "", "你", " ", " a", ""]
    assert stream.finish() == "\ufffd"


def test_a_stream_skips_special_tokens() -> None:
    stream = StreamDecoder(tokenizer("chatglm3-tiny"))
    assert [stream.push(index) for index in (2044, 260, 2, 260)] == ["", "a", "", " a"]


def copy(name: str, to: Path, *files: str) -> GlmConfig:
    for file in files:
        (to / file).write_bytes((directory(name) / file).read_bytes())
    return config(name)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.(json|model)") as caught:
        load_tokenizer(tmp_path, config("chatglm2-tiny"))
    assert "copy the publisher's tokenizer files" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.model", b""),
        ("tokenizer.model", b"\x80\x02}q\x00."),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": 3}}'),
    ],
)
def test_broken_tokenizers_give_one_error(tmp_path: Path, file: str, content: bytes) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(tmp_path, config("chatglm2-tiny"))
    assert str(tmp_path / file) in str(caught.value)


@pytest.mark.parametrize("rule", ["", "AAAA", "not base64", 7, "AAQAAAD" + "/" * 1400])
def test_a_damaged_rule_in_json_gives_one_error(tmp_path: Path, rule: object) -> None:
    tokenizer("chatglm2-tiny").save(tmp_path)
    file = tmp_path / "tokenizer.json"
    values = json.loads(file.read_text())
    step = {"type": "Precompiled", "precompiled_charsmap": rule}
    values["normalizer"] = {"type": "Sequence", "normalizers": [values["normalizer"], step]}
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"rule is damaged|not base64"):
        load_tokenizer(tmp_path, replace(config("chatglm2-tiny"), family="glm"))


def test_a_tokenizer_outside_the_directory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").symlink_to(directory("chatglm2-tiny") / "tokenizer.model")
    with pytest.raises(CheckpointError, match="link out of the checkpoint directory"):
        load_tokenizer(tmp_path, config("chatglm2-tiny"))


@pytest.mark.parametrize(("kind", "reason"), [("pipe", "regular file"), ("loop", "cannot be opened")])
@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer_config.json", "chat_template.jinja"])
def test_a_tokenizer_file_that_is_no_file_is_refused(tmp_path: Path, name: str, kind: str, reason: str) -> None:
    found = copy("chatglm2-tiny", tmp_path, "tokenizer.model")
    (tmp_path / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(name)
    with pytest.raises(CheckpointError, match=reason):
        load_tokenizer(tmp_path, found)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocab_size": 2047}, "has 2048 ids"),
        ({"eos_token_ids": (2100,)}, "no token 2100"),
        ({"pad_token_id": 2050}, "no token 2050"),
        ({"bos_token_id": 2060}, "no token 2060"),
    ],
)
def test_a_tokenizer_must_fit_the_model(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load_tokenizer(directory("chatglm2-tiny"), replace(config("chatglm2-tiny"), **changes))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"tokenizer_config.json": "{"}, "not valid JSON"),
        ({"tokenizer_config.json": '{"chat_template": "a", "chat_template": "b"}'}, "'chat_template' is given twice"),
        ({"tokenizer_config.json": '{"model_max_length": NaN}'}, "NaN is not a JSON number"),
        ({"tokenizer_config.json": '{"chat_template": 3}'}, "chat_template is a int"),
        ({"chat_template.jinja": b"\xff"}, "not UTF-8"),
    ],
)
def test_broken_side_files_give_one_error(tmp_path: Path, files: dict[str, str | bytes], reason: str) -> None:
    found = copy("chatglm2-tiny", tmp_path, "tokenizer.model")
    for file, content in files.items():
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=reason):
        load_tokenizer(tmp_path, found)


@pytest.mark.parametrize(
    ("shipped", "expected"),
    [
        ({"chat_template.jinja": "J"}, "J"),
        ({"tokenizer_config.json": '{"chat_template": "C"}'}, "C"),
        ({"tokenizer_config.json": '{"chat_template": [{"name": "default", "template": "D"}]}'}, "D"),
    ],
)
def test_a_shipped_chat_template_wins(tmp_path: Path, shipped: dict[str, str], expected: str) -> None:
    found = copy("chatglm2-tiny", tmp_path, "tokenizer.model")
    for file, content in shipped.items():
        (tmp_path / file).write_text(content)
    assert load_tokenizer(tmp_path, found).chat_template == expected


def word_tokenizer(to: Path, after: str = "") -> GlmConfig:
    """A ``glm`` directory with a word tokenizer that has no prefix and no template."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2, "<end>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if after:
        words.post_processor = processors.TemplateProcessing(single=f"$A {after}", special_tokens=[(after, 3)])
    words.save(str(to / "tokenizer.json"))
    return replace(config("chatglm2-tiny"), family="glm", eos_token_ids=(3,))


def test_a_tokenizer_without_prefix_or_template(tmp_path: Path) -> None:
    ours = load_tokenizer(tmp_path, word_tokenizer(tmp_path))
    assert (ours.prefix_ids, ours.chat_template, ours.encode("a b")) == ((), None, [1, 2])
    with pytest.raises(CheckpointError, match="no chat template"):
        ours.apply_chat_template([Message("user", "a")])


def test_a_tokenizer_that_adds_something_behind_is_refused(tmp_path: Path) -> None:
    found = word_tokenizer(tmp_path, "<end>")
    with pytest.raises(CheckpointError, match="after a text"):
        load_tokenizer(tmp_path, found)


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(DataError, match=r"character 1 is '\\ud83d'"):
        tokenizer("chatglm2-tiny").encode("a\ud83d")


def test_a_tokenizer_that_cannot_be_read_again_is_not_saved(tmp_path: Path) -> None:
    broken = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    broken.model = models.BPE({"a": 0, "b": 1, "ab": 1, "c": 2}, [("a", "b")])
    ours = replace(tokenizer("chatglm2-tiny"), _tokenizer=broken)
    with pytest.raises(CheckpointError, match="cannot be used"):
        ours.save(tmp_path)
