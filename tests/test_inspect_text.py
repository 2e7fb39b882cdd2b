"""``inspect`` opens what export will, tokenizer, template, generation settings, and tells what is wrong with each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import glmquant as gq
from glmquant import assets
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from tests.core.test_placeholders import HTML, POINTER
from tests.glm.test_families import HUGGING_FACE, NATIVE
from tests.support import glm4
from tests.support.paths import CHATGLM2
from tests.test_cli import glmquant
from tests.test_families import hugging_face, native

KINDS = {"chatglm2": "THUDM/chatglm2-6b", "glm-4": "THUDM/glm-4-9b-chat", "glm": "THUDM/glm-4-9b-hf"}
FILES = {"chatglm2": "tokenizer.model", "glm-4": "tokenizer.model", "glm": "tokenizer.json"}
ALL = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind, name in KINDS.items():
        release = next(each for each in (*NATIVE, *HUGGING_FACE) if each.name == name)
        made[kind] = tmp_path_factory.mktemp(kind) / "model"
        made[kind].mkdir()
        (native if release in NATIVE else hugging_face)(release, made[kind])
    return made


@pytest.fixture
def model(kind: str, checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(checkpoints[kind], tmp_path / "model")


Capture = pytest.CaptureFixture[str]


def assert_told(model: Path, capsys: Capture, *names: str) -> None:
    """Exit code 2, the architecture on stdout nevertheless, each problem on stderr; in JSON too; and export says it."""
    assert glmquant("inspect", model) == 2
    shown = capsys.readouterr()
    assert "query heads" in shown.out
    assert f"\n  cannot be used: {shown.err.splitlines()[0].removeprefix('glmquant: ')}\n" in f"{shown.out}\n"
    for name in names:
        assert name in shown.err
    assert glmquant("inspect", model, "--json") == 2
    values = json.loads(capsys.readouterr().out)
    assert values["config"]["num_hidden_layers"] == 2
    assert values["text"] is None
    assert all(set(problem) == {"what", "where", "expected", "hint"} for problem in values["problems"])
    assert len(values["problems"]) == shown.err.count("glmquant: ")
    assert glmquant("export", model, "--out", model.parent / "out", "-r", "int8-rtn", "--quiet") == 2
    assert capsys.readouterr().err.splitlines()[0] == shown.err.splitlines()[0]


@ALL
def test_a_whole_checkpoint_is_described(kind: str, model: Path, capsys: Capture) -> None:
    assert glmquant("inspect", model) == 0
    shown = capsys.readouterr()
    kinds = {"chatglm2": "SentencePiece, 2048", "glm-4": "tiktoken, 614", "glm": "tokenizers, 614"}
    assert f"tokenizer: {kinds[kind]} ids of the vocabulary's 2112\n" in shown.out
    templates = {"chatglm2": "that of chatglm2", "glm-4": "that of glm-4"}
    own = f"its own, from {model}/tokenizer_config.json, chat_template"
    assert f"chat template: {templates.get(kind, own)}\n" in shown.out
    ends = "2 </s>" if kind == "chatglm2" else "600 <|endoftext|>, 607 <|user|>, 609 <|observation|>"
    assert shown.out.endswith(f"an answer ends at {ends}\n")
    text = gq.inspect(model).text
    assert text is not None
    assert (text.num_ids, text.notes, text.sampling) == (2048 if kind == "chatglm2" else 614, (), {})


PLACEHOLDERS: dict[str, tuple[bytes, str]] = {
    "chatchat-space/Langchain-Chatchat#3103, zai-org/ChatGLM3#1296": (POINTER, "Git LFS pointer"),
    "google/sentencepiece#1054": (HTML, "HTML page"),
    "hiyouga/LlamaFactory#3229: a download that was cut off at once": (b"", "is empty"),
    "zai-org/ChatGLM2-6B#67": (b"Entry not found", "server's error message"),
}


@ALL
@pytest.mark.parametrize(("content", "named"), PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_what_lies_in_the_tokenizers_place_is_named(
    kind: str, content: bytes, named: str, model: Path, capsys: Capture
) -> None:
    """The report lfs-pointers."""
    whole = (model / FILES[kind]).read_bytes()
    (model / FILES[kind]).write_bytes(content)
    assert_told(model, capsys, named, f"hf download {KINDS[kind]} {FILES[kind]} --local-dir {model}")
    (model / FILES[kind]).write_bytes(whole)  # what following the hint does
    assert glmquant("inspect", model) == 0


@ALL
@pytest.mark.parametrize(("content", "named"), PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_and_in_that_of_a_file_beside_it(kind: str, content: bytes, named: str, model: Path, capsys: Capture) -> None:
    (model / "tokenizer_config.json").write_bytes(content)
    assert_told(model, capsys, named, "tokenizer_config.json")


Damage = Callable[[Path], Any]


def cut(name: str, share: float = 0.5) -> Damage:
    def damage(model: Path) -> None:
        content = (model / name).read_bytes()
        (model / name).write_bytes(content[: int(len(content) * share)])

    return damage


def put(name: str, value: Any) -> Damage:
    return lambda model: (model / name).write_text(value if isinstance(value, str) else json.dumps(value))


def taken_from(source: Path, name: str) -> Damage:
    return lambda model: shutil.copy(source / name, model)


def glm_4s_tokenizer(model: Path) -> None:
    (model / "tokenizer.model").write_bytes(glm4.model_file())


DAMAGES: dict[str, tuple[str, Damage, tuple[str, ...]]] = {
    "a cut SentencePiece model": ("chatglm2", cut("tokenizer.model"), ("cut short",)),
    "a cut list of ranks": ("glm-4", cut("tokenizer.model"), ("tokenizer.model",)),
    "a cut tokenizer.json": ("glm", cut("tokenizer.json"), ("not valid JSON", "-hf tokenizer.json")),
    "a cut tokenizer_config.json": ("glm", cut("tokenizer_config.json"), ("not valid JSON", "hf download")),
    "missing": ("chatglm2", lambda model: (model / "tokenizer.model").unlink(), ("missing", "copy the publisher's")),
    "a larger model's": ("chatglm2", taken_from(assets.DEMO_MODEL, "tokenizer.model"), ("5405 ids", "2112", "another")),
    "a template that does not compile: gpt4all#3255": (
        "chatglm2", put("chat_template.jinja", "a\n{% if %}"), ("does not compile", "chat_template.jinja, line 2")
    ),
    "generation settings out of range": (
        "glm", put("generation_config.json", {"eos_token_id": 9999}), ("eos_token_id is 9999", "generation_config.json")
    ),
    "an added token beyond the vocabulary: CTranslate2#1415": (
        "glm", put("added_tokens.json", {"<pad>": 2112}), ("'<pad>' has id 2112", "below 2112", "added_tokens.json")
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "damage", "names"), DAMAGES.values(), ids=DAMAGES)
def test_what_export_would_find_is_found_at_once(
    kind: str, damage: Damage, names: tuple[str, ...], model: Path, capsys: Capture
) -> None:
    damage(model)
    assert_told(model, capsys, *names)


@pytest.mark.parametrize(
    ("kind", "damage", "family", "said"),
    [
        ("chatglm2", glm_4s_tokenizer, "chatglm2", "as GLM-4 has it"),
        ("glm-4", taken_from(CHATGLM2, "tokenizer.model"), "glm-4", "as ChatGLM2, ChatGLM3 and CodeGeeX2 have it"),
    ],
    ids=["foldl/chatllm.cpp#20: GLM-4's in ChatGLM2", "ChatGLM2's in GLM-4"],
)
def test_a_tokenizer_of_the_other_kind_is_named(
    kind: str, damage: Damage, family: str, said: str, model: Path, capsys: Capture
) -> None:
    found = gq.inspect(model).config
    assert found.family == family
    damage(model)
    assert glmquant("inspect", model) == 2
    assert "tokenizer.model is: " in capsys.readouterr().err
    with pytest.raises(gq.CheckpointError, match=said):
        load_tokenizer(model, found)


@pytest.mark.parametrize("kind", ["glm"])
def test_everything_that_is_wrong_is_listed_once(kind: str, model: Path, capsys: Capture) -> None:
    (model / "tokenizer.json").write_bytes(POINTER)
    put("chat_template.jinja", "{{")(model)
    put("generation_config.json", {"top_p": 7})(model)
    put("added_tokens.json", {"<a>": 700, "<b>": 700})(model)
    assert glmquant("inspect", model) == 2
    shown = capsys.readouterr()
    assert shown.err.count("glmquant: ") == shown.out.count("cannot be used: ") == 4


@pytest.mark.parametrize("kind", ["chatglm2"])
def test_what_a_fine_tune_brought_is_shown(kind: str, model: Path, capsys: Capture) -> None:
    put("generation_config.json", {"eos_token_id": [2, 300], "do_sample": True, "temperature": 0.8})(model)
    named = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]
    put("tokenizer_config.json", {"chat_template": named})(model)
    put("added_tokens.json", {"<city>": 2048})(model)
    assert glmquant("inspect", model) == 0
    shown = capsys.readouterr().out
    assert "2049 ids of the vocabulary's 2112" in shown
    assert "tokenizer_config.json, chat_template; also tool_use\n" in shown
    assert "by default: do_sample True, temperature 0.8\n" in shown
    assert "note: config.json ends an answer at 2, generation_config.json at 2, 300: it ends at each of them" in shown


def test_a_quantized_checkpoint_is_whole_too(tmp_path: Path, capsys: Capture) -> None:
    assert glmquant("quantize", CHATGLM2, "-r", "int8-rtn", "--out", tmp_path / "int8", "--quiet") == 0
    assert glmquant("inspect", tmp_path / "int8") == 0
    assert "chat template: its own" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
@pytest.mark.parametrize(("content", "named"), [(POINTER, "Git LFS pointer"), (HTML, "HTML page")], ids=["lfs", "html"])
def test_a_bundle_that_was_not_downloaded_is_told(
    name: str, content: bytes, named: str, tmp_path: Path, capsys: Capture
) -> None:
    bundle = gq.export(assets.DEMO_MODEL, out=tmp_path / "onnx").path
    (bundle / name).write_bytes(content)
    for command in (["generate", bundle, "hi"], ["chat", bundle]):
        assert glmquant(*command) == 2
        told = capsys.readouterr().err
        assert named in told
        assert f"hf download ID {name} --local-dir {bundle}" in told
