"""Checkpoints as people hand them over, on the command line: they are read, or one error says what they are and what to
do. What each form is, file by file, is tested in tests/store; the advice given there is followed here, as typed."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import glmquant as gq
from glmquant import assets
from glmquant.store.checkpoint import open_checkpoint
from tests.glm.test_families import HUGGING_FACE, NATIVE
from tests.support.handed import HTML_PAGE, LFS_POINTER, cached, edit, plain, saved, weights
from tests.test_cli import glmquant
from tests.test_families import hugging_face, native

RELEASES = {release.name: release for release in (*NATIVE, *HUGGING_FACE)}


def made(name: str, to: Path) -> Path:
    """The release, tiny, with its tokenizer."""
    to.mkdir(parents=True)
    (native if RELEASES[name] in NATIVE else hugging_face)(RELEASES[name], to)
    return to


def said(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


INSPECTED: dict[str, Callable[[Path], Path]] = {
    "hub-cache, snapshot": lambda to: cached(plain(to / "m"), to),
    "hub-cache, the model's directory": lambda to: cached(plain(to / "m"), to).parents[1],
    "huggingface_hub#2284, a link to the cache": lambda to: linked(cached(plain(to / "m"), to), to / "mine"),
    "ModelScope": lambda to: plain(to / "hub" / "models" / "ZhipuAI" / "chatglm2-6b___v1___0"),
    "wrapped-weights, prefix": lambda to: saved(to / "c", {f"module.{n}": t for n, t in weights().items()}),
    "wrapped-weights, nested": lambda to: saved(to / "c", {"module": weights(), "epoch": 3}),
    "wrapped-weights, protocol 4": lambda to: saved(to / "c", weights(), pickle_protocol=4),
    "wrapped-weights, deepspeed": lambda to: saved(
        to / "c", {"module": weights()}, "global_step100/mp_rank_00_model_states.pt"
    ),
    "stale-quantization-config, old": lambda to: edit(
        made("THUDM/glm-4-9b-hf", to / "c"), quantization_config={"load_in_8bit": True}
    ),
    "stale-quantization-config, new": lambda to: edit(
        made("THUDM/glm-4-9b-hf", to / "c"), quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
    ),
    "family-glm-4, merged": lambda to: edit(
        made("THUDM/glm-4-9b-chat", to / "c"), _name_or_path="/data/glm4-chat-pytorch-9b"
    ),
    "family-glm-4, under another repository": lambda to: edit(
        made("THUDM/glm-4-9b-chat", to / "c"), _name_or_path="/home/me/ChatGLM3/finetune/output/checkpoint-500"
    ),
    "tied-head": lambda to: another_head(made("THUDM/glm-edge-1.5b-chat", to / "c")),
}


def linked(directory: Path, link: Path) -> Path:
    link.symlink_to(directory)
    return link


def another_head(directory: Path) -> Path:
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2 + 1
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("make", INSPECTED.values(), ids=INSPECTED.keys())
def test_inspected_and_exported(make: Callable[[Path], Path], tmp_path: Path) -> None:
    directory = make(tmp_path)
    assert glmquant("inspect", directory, "--json") == 0
    assert glmquant("export", directory, "--recipe", "int8-rtn", "--out", tmp_path / "onnx", "--quiet") == 0
    answer = gq.generate(tmp_path / "onnx", "hello", options=gq.GenerationOptions(max_new_tokens=2))
    assert isinstance("".join(answer), str)


def test_a_family_that_is_asked_for_is_accepted_wherever_it_is_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """reports/family-missing, reports/family-glm-4: the advice was a dead end."""
    directory = plain(tmp_path / "c", "chatglm3-tiny")
    edit(directory, _name_or_path="/home/me/ChatGLM3/output/checkpoint-500")
    (directory / "tokenizer_config.json").write_text("{}")
    assert glmquant("inspect", directory) == 2
    error = said(capsys)
    offered = re.search(r"which of ([\w\-, ]+) this is", error)
    assert offered is not None
    for family in offered[1].split(", "):
        assert glmquant("inspect", directory, "--set", f"model.family={family}") == 0
    advice = re.search(r"model\.family=\S+$", error.strip())
    assert advice is not None
    for verb in ("export", "quantize"):
        out = tmp_path / verb
        assert glmquant(verb, directory, "--recipe", "int8-rtn", "--set", advice[0], "--out", out, "--quiet") == 0
    capsys.readouterr()


@pytest.mark.parametrize(("typed", "meant"), [("glm4", "glm-4"), ("ChatGLM3", "chatglm3"), ("codegeex-2", "codegeex2")])
def test_a_family_nearly_right_is_suggested(
    tmp_path: Path, typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glmquant("inspect", plain(tmp_path / "c"), "--set", f"model.family={typed}") == 2
    assert f"did you mean model.family={meant}?" in said(capsys)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "partial-weights, p-tuning": (
        lambda to: edit(saved(to, {"transformer.prefix_encoder.embedding.weight": torch.zeros(9)}), pre_seq_len=128),
        "give the base model",
    ),
    "partial-weights, value head": (
        lambda to: saved(to, weights() | {"v_head.summary.weight": torch.zeros(9)}), "save_pretrained",
    ),
    "wrapped-weights, ZeRO-3": (
        lambda to: saved(to, {n: torch.empty(0, dtype=t.dtype) for n, t in weights().items()}), "zero_to_fp32.py",
    ),
    "lfs-pointers, weights": (lambda to: damaged(to, "pytorch_model-00001-of-00002.bin", LFS_POINTER), "git lfs pull"),
    "lfs-pointers, config.json": (lambda to: damaged(to, "config.json", LFS_POINTER), "git lfs pull"),
    "ChatGLM2-6B#67, an index that is a pointer": (
        lambda to: damaged(to, "pytorch_model.bin.index.json", LFS_POINTER), "git lfs pull",
    ),
    "MFTCoder#20, safetensors that are a pointer": (
        lambda to: damaged(to, "model.safetensors", LFS_POINTER), "git lfs pull",
    ),
    "ChatGLM3#88, a page in place of the weights": (
        lambda to: damaged(to, "pytorch_model-00001-of-00002.bin", HTML_PAGE), "/resolve/main/",
    ),
    "a page in place of config.json": (lambda to: damaged(to, "config.json", HTML_PAGE), "`hf download ID config.json"),
}  # fmt: skip


def damaged(to: Path, name: str, content: bytes) -> Path:
    """In a clone, where a pointer's file is fetched by git."""
    (plain(to) / name).write_bytes(content)
    (to / ".git").mkdir()
    return to


@pytest.mark.parametrize(("make", "hint"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_advice(
    make: Callable[[Path], Path], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make(tmp_path / "c")
    assert glmquant("inspect", directory) == 2
    error = said(capsys)
    assert hint in error
    assert "download the checkpoint again" not in error
    assert glmquant("export", directory, "--recipe", "int8-rtn", "--out", tmp_path / "onnx", "--quiet") == 2
    assert said(capsys) == error
    assert not (tmp_path / "onnx").exists()


def test_an_adapter_given_as_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """reports/partial-weights, lora-adapter: with and without a config.json beside it."""
    for directory in (plain(tmp_path / "with"), tmp_path / "without"):
        directory.mkdir(exist_ok=True)
        for path in directory.glob("pytorch_model*"):
            path.unlink()
        config = {"base_model_name_or_path": "/models/chatglm3-6b", "peft_type": "LORA", "r": 8}
        (directory / "adapter_config.json").write_text(json.dumps(config))
        save_file({"x.lora_A.weight": torch.zeros(8, 64)}, directory / "adapter_model.safetensors")
        assert glmquant("inspect", directory) == 2
        error = said(capsys)
        assert "a LoRA adapter, not a model" in error
        assert "give the base model, '/models/chatglm3-6b', and this directory as `" in error


def test_a_bundle_and_a_run_given_as_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """REVIEW-users: `inspect out/onnx`; `check MODEL --baseline BUNDLE`, swapped; `generate` on a run's directory."""
    model, run = plain(tmp_path / "model"), tmp_path / "run"
    small = ["--set", "check.num_tokens=64", "--set", "check.seq_len=32", "--quiet"]
    assert glmquant("run", model, "--recipe", "int8-rtn", "--out", run, *small) in (0, 3, 4)
    capsys.readouterr()
    assert glmquant("check", model, "--baseline", run / "onnx", *small) == 2
    error = said(capsys)
    assert f"{run / 'onnx'} is an ONNX bundle, and {model} is none" in error
    assert f"swap them: glmquant check {run / 'onnx'} --baseline {model}" in error
    text = ["--text", assets.DIRECTORY / "held-out-en.txt"]
    assert glmquant("check", run / "onnx", "--baseline", model, *text, *small) in (0, 3, 4)
    assert glmquant("inspect", run) == 2
    error = said(capsys)
    assert f"give {run / 'quantized'}, or {run / 'onnx'}, where a bundle is taken" in error
    assert glmquant("inspect", run / "quantized") == 0
    assert glmquant("generate", run, "hello") == 2
    assert f"did you mean {run / 'onnx'}?" in said(capsys)
    assert glmquant("inspect", run / "report") == 2
    assert "an accuracy report" in said(capsys)


def test_a_link_out_of_the_directory_is_not_followed_and_the_advice_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = plain(tmp_path / "c")
    (directory / "config.json").rename(tmp_path / "config.json")
    (directory / "config.json").symlink_to(tmp_path / "config.json")
    assert glmquant("inspect", directory) == 2
    assert "cp -rL" in said(capsys)
    os.system(f"cp -rL {directory} {tmp_path / 'copy'}")
    assert glmquant("inspect", tmp_path / "copy") == 0


def test_several_snapshots_ask_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = cached(plain(tmp_path / "one"), tmp_path, revision="a1")
    cached(plain(tmp_path / "two"), tmp_path, revision="b2")
    assert glmquant("inspect", first.parents[1]) == 2
    error = said(capsys)
    assert str(first) in error
    assert glmquant("inspect", first) == 0
    (first.parents[1] / "refs").mkdir()
    (first.parents[1] / "refs" / "main").write_text("b2")
    assert glmquant("inspect", first.parents[1]) == 0


def test_a_cached_model_and_a_copy_of_it_have_one_fingerprint(tmp_path: Path) -> None:
    """So that what is made of either is the same, and a baseline measured once serves both."""
    copy = plain(tmp_path / "copy")
    shutil.copytree(copy, tmp_path / "m")
    snapshot = cached(tmp_path / "m", tmp_path)
    assert open_checkpoint(snapshot).fingerprint == open_checkpoint(copy).fingerprint
