"""Where an answer ends, and how it is sampled, as ``generation_config.json`` says and as it reaches a bundle."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import glmquant as gq
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.generation import read_generation
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.onnx_export.side_files import generation_config
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.tokenizer import load_bundle_tokenizer
from glmquant.store.checkpoint import open_checkpoint
from tests.glm.test_families import HUGGING_FACE, NATIVE
from tests.hints.follow import follows
from tests.support.golden import config, directory
from tests.support.models import TINY
from tests.support.paths import CHATGLM2, copied
from tests.test_families import hugging_face, native

INT8 = gq.load_recipe("int8-rtn")


def write(to: Path, **values: Any) -> Path:
    (to / "generation_config.json").write_text(json.dumps(values))
    return to


def exported(model: Path, tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The bundle, its genai_config.json and its generation_config.json."""
    bundle = gq.export(model, INT8, out=tmp_path / "onnx").path
    genai, own = (json.loads((bundle / f"{name}_config.json").read_text()) for name in ("genai", "generation"))
    return bundle, genai, own


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """The report stop-tokens, after GLM-4#297: 610 stands in generation_config.json alone."""
    release = next(each for each in HUGGING_FACE if each.name == "THUDM/glm-4-9b-hf")
    (tmp_path / "tuned").mkdir()
    hugging_face(release, tmp_path / "tuned")
    path = tmp_path / "tuned" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 600}))
    return write(tmp_path / "tuned", eos_token_id=[600, 607, 609, 610], pad_token_id=600)


def test_stop_tokens_of_a_fine_tune_reach_the_bundle(
    tuned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "glmquant"):
        bundle, genai, own = exported(tuned, tmp_path)
    assert genai["model"]["eos_token_id"] == [600, 607, 609, 610]
    assert own == {"eos_token_id": [600, 607, 609, 610], "pad_token_id": 600}
    assert "config.json ends an answer at 600, generation_config.json at 600, 607, 609, 610" in caplog.text
    model = OnnxModel.open(bundle)
    assert model.info.eos_ids == load_bundle_tokenizer(bundle).eos_ids == (600, 607, 609, 610)
    assert load_bundle_tokenizer(bundle).notes == ()


def test_an_answer_ends_at_the_stop_token_of_the_generation_config(tuned: Path, tmp_path: Path) -> None:
    options = gq.GenerationOptions(max_new_tokens=8)
    bundle, genai, _ = exported(tuned, tmp_path)
    model = OnnxModel.open(bundle)
    from glmquant.runtime.generate import generate

    plain = list(generate(model, [5, 6, 7], options))
    write(tuned, eos_token_id=[600, plain[2]])
    again = gq.export(tuned, INT8, out=tmp_path / "again").path
    assert list(generate(OnnxModel.open(again), [5, 6, 7], options)) == plain[: plain.index(plain[2])]
    assert 610 in genai["model"]["eos_token_id"]


ENDS: dict[str, tuple[object, object, list[int]]] = {
    "turboderp-org/exllamav2#449: more in generation_config.json": (2, [2, 300], [2, 300, 2049, 2051]),
    "Blaizzy/mlx-vlm#2112: fewer in generation_config.json": ([2, 300], 2, [2, 300, 2049, 2051]),
    "QwenLM/Qwen3#927: another one": (2, 300, [2, 300, 2049, 2051]),
    "salesforce/CodeGen#32: the same": (2, [2], [2, 2049, 2051]),
    "the turns named as ends": (2, [2, 2051, 2049], [2, 2051, 2049]),
    "nothing said": (2, None, [2, 2049, 2051]),
}


@pytest.mark.parametrize(("ours", "theirs", "ends"), ENDS.values(), ids=ENDS)
def test_what_two_files_say_is_united(ours: object, theirs: object, ends: list[int], tmp_path: Path) -> None:
    release = next(each for each in NATIVE if each.name == "THUDM/chatglm3-6b")
    model = tmp_path / "model"
    model.mkdir()
    native(release, model)
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ours}))
    write(model, eos_token_id=theirs, do_sample=True, temperature=0.8, top_p=0.8, transformers_version="4.40.0")
    bundle, genai, own = exported(model, tmp_path)
    assert genai["model"]["eos_token_id"] == ends
    assert set(own["eos_token_id"] if isinstance(own["eos_token_id"], list) else [own["eos_token_id"]]) == set(ends)
    assert own["transformers_version"] == "4.40.0"
    search = genai["search"]
    assert (search["do_sample"], search["temperature"], search["top_p"], search["top_k"]) == (True, 0.8, 0.8, 50)
    quantized = gq.quantize(model, INT8, out=tmp_path / "quantized").path
    assert (quantized / "generation_config.json").read_bytes() == (model / "generation_config.json").read_bytes()
    assert json.loads((gq.export(quantized, INT8, out=tmp_path / "b").path / "genai_config.json").read_text()) == genai
    assert bundle.name == "onnx"


def test_a_file_that_agrees_is_copied_as_it_is(tmp_path: Path) -> None:
    model = copied(CHATGLM2, tmp_path)
    text = '{ "eos_token_id" : 2,\n  "pad_token_id":0, "_from_model_config": true}'
    (model / "generation_config.json").write_text(text)
    bundle = gq.export(model, INT8, out=tmp_path / "onnx").path
    assert (bundle / "generation_config.json").read_text() == text


def test_pad_and_beginning_are_those_of_the_graph() -> None:
    stated = {"eos_token_id": 2, "pad_token_id": 5, "bos_token_id": 9, "top_p": 0.5}
    expected = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1, "top_p": 0.5}
    assert generation_config(stated, TINY) == expected
    assert generation_config({}, replace(TINY, eos_token_ids=(2, 3))) == {"eos_token_id": [2, 3]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"temperature": 0.0, "do_sample": True}, {"do_sample": False, "temperature": 1.0, "top_p": 1.0}),
        ({"top_p": 0}, {"do_sample": False, "temperature": 1.0, "top_p": 1.0}),
        ({"top_k": 0, "repetition_penalty": 1.1}, {"top_k": 0, "repetition_penalty": 1.1}),
        ({"temperature": None, "top_k": None}, {}),
        ({"do_sample": False, "temperature": 1}, {"do_sample": False, "temperature": 1.0}),
        ({}, {}),
    ],
)
def test_defaults_of_sampling(values: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    assert read_generation(write(tmp_path, **values), 100).sampling.stated() == expected


def test_settings_that_a_bundle_does_not_have_are_noted(tmp_path: Path) -> None:
    (note,) = read_generation(write(tmp_path, num_beams=4, min_p=0.1, penalty_alpha=None, num_beam_groups=1), 9).notes
    assert note == "generation_config.json sets num_beams, min_p: a bundle does without"


WRONG: dict[str, dict[str, Any]] = {
    "ggml-org/llama.cpp#3635: an id beyond the vocabulary": {"eos_token_id": 2112},
    "a negative id": {"eos_token_id": -1},
    "a token's text": {"eos_token_id": "</s>"},
    "an id in a list in a list": {"eos_token_id": [[2]]},
    "true": {"eos_token_id": True},
    "too many ids": {"eos_token_id": [2] * 65},
    "a temperature in words": {"temperature": "hot"},
    "a negative temperature": {"temperature": -1},
    "a top_p of 80 percent": {"top_p": 80},
    "half a token": {"top_k": 1.5},
    "yes": {"do_sample": "yes"},
    "no penalty": {"repetition_penalty": 0},
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
@follows("mend it there, or remove {}: it is not needed to run the model")
def test_a_wrong_value_is_told_and_the_hint_works(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((directory("chatglm3-tiny") / "tokenizer.model").read_bytes())
    write(tmp_path, **values)
    found = config("chatglm3-tiny")
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(tmp_path, found)
    assert str(caught.value.where) == f"{tmp_path / 'generation_config.json'}, {next(iter(values))}"
    assert "remove generation_config.json" in str(caught.value.hint)
    (tmp_path / "generation_config.json").unlink()
    assert load_tokenizer(tmp_path, found).eos_ids == (2, 2049, 2051)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_an_encodings_mark_are_read(tuned: Path, encoding: str) -> None:
    whole = load_tokenizer(tuned, open_checkpoint(tuned).config)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        text = (tuned / name).read_text(encoding="utf-8")
        (tuned / name).write_text(text, encoding=encoding)
    marked = load_tokenizer(tuned, open_checkpoint(tuned).config)
    assert marked.encode("你好 hello") == whole.encode("你好 hello")
    assert marked.generation == whole.generation
    assert marked.chat_template == whole.chat_template
