"""Hints on configurations and tokenizers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import sentencepiece_model_pb2

from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.config import GlmConfig
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.glm.tokenizers.chat import Message, render
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from tests.glm.tokenizers.test_added_tokens import CONTRADICTIONS, MALFORMED, TAG, chatglm
from tests.glm.tokenizers.test_sentencepiece_model import edited
from tests.glm.tokenizers.test_templates import LIST, ONE, TWO
from tests.hints.commands import commands, hub_command
from tests.hints.follow import follows, met_errors, named, refused
from tests.hints.places import Hint
from tests.support.glm4 import model_file, write_tokenizer
from tests.support.golden import config, directory, published_config, tokenizer
from tests.support.hub import Hub

MODEL = "tokenizer.model"
ONE_CHECKPOINT = "take all tokenizer files from one saved checkpoint"


def proto(**cleared: bool) -> bytes:
    """The golden model without some of its parts."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((directory("chatglm2-tiny") / MODEL).read_bytes())
    for name in cleared:
        model.ClearField(name)
    return model.SerializeToString()


def rule_damaged() -> bytes:
    return edited(normalizer_spec__precompiled_charsmap=b"x")


DAMAGED: dict[str, tuple[Hint, bytes]] = {
    "empty": (named("<fetch_again>", "read_bytes"), b""),
    "another file": (named("<fetch_again>", "_no_model"), b"\x80\x02}q\x00."),
    "no pieces": (named("<fetch_again>", "_parse"), proto(pieces=True)),
    "cut short": (named("<fetch_again>", "_refuse_other_kinds"), proto(trainer_spec=True)),
    "a piece twice": (named("<fetch_again>", "sentencepiece_tokenizer"), edited(piece__piece="▁t")),
    "a byte missing": (named("<fetch_again>", "_has_bytes"), edited(piece__type=6)),
    "a damaged rule": (named("fetch the file again", "charsmap"), rule_damaged()),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED.values(), ids=DAMAGED)
def test_the_file_fetched_again_is_read(tmp_path: Path, hub: Hub, case: tuple[Hint, bytes]) -> None:
    hint, content = case
    (tmp_path / MODEL).write_bytes(content)
    with met_errors() as met:
        error = refused(lambda: load_tokenizer(tmp_path, config("chatglm2-tiny")))
    assert any(each.is_of(hint) for each in met), met
    command = next(iter(commands(error.hint)), f"hf download ID {MODEL} --local-dir {tmp_path} --force-download")
    hub_command(command.replace(" ID ", " THUDM/chatglm2-6b "))
    assert load_tokenizer(tmp_path, config("chatglm2-tiny")).sha256 == tokenizer("chatglm2-tiny").sha256


@follows("<fetch_again>", "_read_ranks")
@pytest.mark.parametrize(
    "content", [b"not a line", b"IQ== 0\nIQ== 1\n", b"IQ== 0\n"], ids=["no token", "twice", "gaps"]
)
def test_ranks_fetched_again_are_read(tmp_path: Path, content: bytes) -> None:
    found = write_tokenizer(tmp_path)
    (tmp_path / MODEL).write_bytes(content)
    refused(lambda: load_tokenizer(tmp_path, found), f"`hf download ID {MODEL} --local-dir {tmp_path}")
    (tmp_path / MODEL).write_bytes(model_file())
    assert load_tokenizer(tmp_path, found)


@follows("<fetch_again>", "failures_named")
@follows("copy the publisher's tokenizer files into the checkpoint directory")
def test_the_publishers_files_are_read(tmp_path: Path) -> None:
    found = config("chatglm2-tiny")
    refused(lambda: load_tokenizer(tmp_path, found), "copy the publisher's")
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}')
    refused(lambda: load_tokenizer(tmp_path, found), "`hf download ID tokenizer.json")
    (tmp_path / "tokenizer.json").unlink()
    shutil.copy(directory("chatglm2-tiny") / MODEL, tmp_path)
    assert load_tokenizer(tmp_path, found)


@follows("{}, or {}", "tokenizers.files:parse_object")
def test_a_broken_side_file_is_mended(tmp_path: Path) -> None:
    found = config("chatglm2-tiny")
    shutil.copy(directory("chatglm2-tiny") / MODEL, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    refused(lambda: load_tokenizer(tmp_path, found))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert load_tokenizer(tmp_path, found)


def chatglm_config(**changes: Any) -> GlmConfig:
    return resolve_layout(published_config(**changes), config_path=Path("config.json")).config


@follows("if this is no GLM-4, {}; if it is, set model.family=glm-4")
@follows("if this is GLM-4, {}; if not, set model.family to the one it is of")
def test_the_family_of_the_vocabulary_is_set(tmp_path: Path) -> None:
    glm4 = write_tokenizer(tmp_path)
    refused(lambda: load_tokenizer(tmp_path, replace(glm4, family="chatglm3")), "set model.family=glm-4")
    assert load_tokenizer(tmp_path, replace(glm4, family="glm-4"))
    (tmp_path / "tokenizer_config.json").unlink()
    found = config("chatglm2-tiny")
    shutil.copy(directory("chatglm2-tiny") / MODEL, tmp_path)
    refused(lambda: load_tokenizer(tmp_path, replace(found, family="glm-4")), "if this is GLM-4, fetch")
    assert load_tokenizer(tmp_path, replace(found, family="chatglm2"))


@follows("leave model.family out, or set it to the family that the tokenizer is of")
def test_a_tokenizer_with_tokens_of_another_family_is_of_its_own(tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(edited(piece__piece="<|user|>"))
    refused(lambda: load_tokenizer(tmp_path, config("chatglm3-tiny")))
    assert load_tokenizer(tmp_path, config("chatglm2-tiny"))


@follows("is it another model's? {}", "_check_size")
@follows("is it another model's? {}", "_check_ids")
def test_the_models_own_tokenizer_fits() -> None:
    found = config("chatglm2-tiny")
    for changes in ({"vocab_size": 2047}, {"pad_token_id": 2050}):
        refused(lambda changes=changes: load_tokenizer(directory("chatglm2-tiny"), replace(found, **changes)))
    assert load_tokenizer(directory("chatglm2-tiny"), found)


DECLARED: dict[str, tuple[Hint, dict[str, Any]]] = {
    "a clash": (named(ONE_CHECKPOINT, "_clash"), CONTRADICTIONS["the model has another token there"][0]),
    "a contradiction": (named(ONE_CHECKPOINT, "_refuse_contradictions"), CONTRADICTIONS["an id twice"][0]),
    "an id far behind": (named(ONE_CHECKPOINT, "_refuse_id"), {"added_tokens": {TAG: 2110}}),
    "an id beyond the vocabulary": (
        named("take config.json, weights and tokenizer files from one saved checkpoint, its embedding resized"),
        CONTRADICTIONS["hf-lin/ChatMusician#23: beyond the model's vocabulary"][0],
    ),
    "no id": (
        named("mend it there, or take all tokenizer files from one saved checkpoint"), MALFORMED["ids as text"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLARED.values(), ids=DECLARED)
def test_files_of_one_checkpoint_fit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[Hint, dict[str, Any]]
) -> None:
    hint, files = case
    monkeypatch.setattr("glmquant.glm.tokenizers.added_tokens.LARGEST_GAP", 50)
    found = chatglm(tmp_path, **files)
    with met_errors() as met:
        refused(lambda: load_tokenizer(tmp_path, found))
    assert any(each.is_of(hint) for each in met), met
    (tmp_path / "saved").mkdir()
    saved = chatglm(tmp_path / "saved", added_tokens={TAG: 2052})
    assert load_tokenizer(tmp_path / "saved", saved).token(2052) == TAG


TEMPLATES: dict[str, tuple[Hint, object, str, object]] = {
    "mended": (
        named("mend it there; the base model's template, saved as chat_template.jinja, takes its place"), "{% if %}",
        "tokenizer_config.json", ONE,
    ),
    "the base model's": (
        named("mend it there; the base model's template, saved as chat_template.jinja, takes its place"), "{% if %}",
        "chat_template.jinja", ONE,
    ),
    "named default": (
        named("name the one to chat with {} there, or save it as chat_template.jinja"), {"rag": ONE, "tool_use": TWO},
        "tokenizer_config.json", {"default": ONE, "tool_use": TWO},
    ),
    "saved as a file": (
        named("name the one to chat with {} there, or save it as chat_template.jinja"), {"rag": ONE, "tool_use": TWO},
        "chat_template.jinja", ONE,
    ),
    "without the second": (
        named("mend it, or remove the wrong one"), [LIST[0], LIST[0]], "tokenizer_config.json", LIST[:1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_put_right_is_used(tmp_path: Path, case: tuple[Hint, object, str, object]) -> None:
    hint, wrong, name, right = case
    shutil.copy(directory("chatglm3-tiny") / MODEL, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": wrong}))
    with met_errors() as met:
        refused(lambda: load_tokenizer(tmp_path, config("chatglm3-tiny")))
    assert any(each.is_of(hint) for each in met), met
    content = str(right) if name.endswith(".jinja") else json.dumps({"chat_template": right})
    (tmp_path / name).write_text(content)
    assert load_tokenizer(tmp_path, config("chatglm3-tiny")).chat_template == ONE


@follows("give plain text, or set model.family if the checkpoint is of a family with a known template")
def test_without_a_template_there_is_plain_text_or_the_familys() -> None:
    plain = replace(tokenizer("chatglm3-tiny"), chat_template=None)
    said = [Message("user", "a")]
    refused(lambda: plain.apply_chat_template(said))
    assert plain.encode("a")
    assert load_tokenizer(directory("chatglm3-tiny"), config("chatglm3-tiny")).apply_chat_template(said)


@follows("look at the JSON escapes (\\ud800 to \\udfff come in pairs) where the text comes from")
def test_escapes_in_pairs_are_a_character() -> None:
    refused(lambda: tokenizer("chatglm2-tiny").encode(json.loads('"\\ud83d"')))
    assert tokenizer("chatglm2-tiny").encode(json.loads('"\\ud83d\\udc4d"'))


@follows("store it as `classifier_head`; dropping the bias would change the answers")
def test_a_bias_is_stored_as_the_publisher_stores_it() -> None:
    head = ClassificationHead(torch.zeros(2, 2), torch.ones(2), ("a", "b"))
    refused(lambda: head.tensors("score"))
    assert head.tensors(head.stored_as)["classifier_head.bias"].sum() == 2


@follows("leave model.family out, or set it to {}; if the name in config.json is wrong, mend it there")
def test_the_family_is_that_of_the_name() -> None:
    def resolved(values: dict[str, Any], family: Any = None) -> str:
        return resolve_layout(values, config_path=Path("config.json"), family=family).config.family

    error = refused(lambda: resolved(published_config(), "chatglm3"))
    meant = str(error.hint).partition("set it to ")[2].partition(";")[0]
    assert resolved(published_config()) == resolved(published_config(), meant) == meant == "chatglm2"
    assert resolved(published_config(_name_or_path="THUDM/chatglm3-6b"), "chatglm3") == "chatglm3"


@follows("glmquant reads GLM-family checkpoints only; give one of those")
def test_a_checkpoint_of_the_family_is_read() -> None:
    refused(lambda: chatglm_config(model_type="llama"))
    assert chatglm_config().family == "chatglm2"


@follows("leave thinking to the template")
def test_a_template_without_a_switch_is_rendered_without() -> None:
    turns = [Message("user", "a")]
    refused(lambda: render("{{ messages[0].content }}", turns, {}, thinking=True))
    assert render("{{ messages[0].content }}", turns, {}) == "a"
