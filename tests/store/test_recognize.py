"""Directories that hold something else than a checkpoint: named for what they are, with what takes them."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import glmquant as gq
from glmquant.errors import CheckpointError, ExportError, GlmQuantError
from glmquant.runtime.session import require_bundle
from glmquant.store.checkpoint import open_checkpoint
from glmquant.store.recognize import without_graph
from tests.hints.follow import follows
from tests.support.handed import HTML_PAGE, LFS_POINTER, cached, plain, without_weights

LORA = "base_model.model.transformer.encoder.layers.0.self_attention.query_key_value.lora_A.weight"
Make = Callable[[Path], object]


def touch(*names: str) -> Make:
    return lambda directory: [(directory / name).write_bytes(b"x") for name in names]


def adapter(**config: object) -> Make:
    def make(directory: Path) -> None:
        values = {"base_model_name_or_path": "/models/chatglm3-6b", "peft_type": "LORA", "r": 8} | config
        (directory / "adapter_config.json").write_text(json.dumps(values))
        save_file({LORA: torch.zeros(8, 64)}, directory / "adapter_model.safetensors")

    return make


def folder(*names: str) -> Make:
    return lambda directory: [(directory / name).mkdir() for name in names]


ZERO3 = [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(2)]

KINDS: dict[str, tuple[Make, str, str]] = {
    "ONNX bundle": (touch("model.onnx", "genai_config.json"), "an ONNX bundle, not a checkpoint", "`baseline`"),
    "run": (folder("onnx", "quantized", "report"), "what `run` wrote", "/quantized"),
    "calibration": (touch("calibration.json", "calibration.safetensors"), "holds a calibration", "`calibration`"),
    "report": (touch("report.json", "report.html"), "an accuracy report", "`against`"),
    "llama.cpp#6058, ChatGLM3#1000: LoRA": (adapter(), "holds a LoRA adapter", "'/models/chatglm3-6b'.*`adapter`"),
    "ChatGLM-Tuning#184: LoRA without its configuration": (
        touch("adapter_model.bin"), "a LoRA adapter without its adapter_config.json", "save_pretrained",
    ),
    "PEFT's prompt tuning": (adapter(peft_type="PROMPT_TUNING"), "what 'PROMPT_TUNING' trained", "base model"),
    "fe1ixxu/ALMA#43: ZeRO-3": (touch(*ZERO3), "DeepSpeed ZeRO", r"python zero_to_fp32\.py \. OUT"),
    "ZeRO-3 in its step's directory": (folder("global_step100"), "DeepSpeed ZeRO", r"zero_to_fp32\.py"),
    "FSDP": (folder("pytorch_model_fsdp_0"), "sharded FSDP", "accelerate merge-weights"),
    "GGUF": (touch("glm-4-9b-chat.Q4_K_M.gguf"), "a GGUF file", "converted from"),
    "another's ONNX": (touch("decoder_model_merged.onnx"), "an ONNX model that glmquant did not write", "`export`"),
    "TensorFlow": (touch("tf_model.h5"), "TensorFlow's or Flax's", "from_tf=True"),
    "Flax": (touch("flax_model.msgpack"), "TensorFlow's or Flax's", "from_flax=True"),
    "zero_nlp#41: an optimizer and nothing to optimize": (
        touch("optimizer.pt", "rng_state.pth", "scheduler.pt"), "an optimizer's state, and no weights", "the trainer",
    ),
    "LLaMA-Factory's value head": (touch("value_head.safetensors"), "a value head alone", "the model that"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "what", "hint"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("with_config", [False, True])
def test_other_directories_are_named(tmp_path: Path, make: Make, what: str, hint: str, with_config: bool) -> None:
    directory = without_weights(tmp_path / "c") if with_config else tmp_path / "c"
    directory.mkdir(exist_ok=True)
    make(directory)
    with pytest.raises(CheckpointError, match=what) as caught:
        open_checkpoint(directory)
    assert caught.value.where == directory
    assert re.search(hint, str(caught.value.hint))


def test_an_adapter_beside_whole_weights_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = plain(tmp_path / "c")
    adapter()(directory)
    open_checkpoint(directory)
    assert "adapter_config.json lies beside the weights" in caplog.text


def advised(error: GlmQuantError) -> Path:
    """The path a hint asks about."""
    found = re.search(r"did you mean (\S+?)\?|directory, (\S+)", str(error.hint))
    assert found is not None
    return Path(found[1] or found[2])


@pytest.mark.parametrize(
    "given", ["mode", "model-2", "Model", "model/config.json", "", "model/global_step1", "outer", "hub"]
)
def test_a_path_beside_the_right_one_leads_to_it(tmp_path: Path, given: str) -> None:
    plain(tmp_path / "model")
    (tmp_path / "model" / "global_step1").mkdir()
    plain(tmp_path / "outer" / "checkpoint-500")
    cached(plain(tmp_path / "hub" / "source"), tmp_path / "hub")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / given)
    assert open_checkpoint(advised(caught.value)).config.family == "chatglm2"


def test_what_is_not_there_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist") as caught:
        open_checkpoint(tmp_path / "nothing-like-it")
    assert caught.value.hint is None
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="a GGUF file"):
        open_checkpoint(tmp_path / "x.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json: it is empty"):
        open_checkpoint(tmp_path / "empty")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    model = plain(root / "model")
    gq.export(open_checkpoint(model), gq.load_recipe("int8-rtn"), out=root / "run" / "onnx")
    return root / "run" / "onnx"


def say(directory: Path) -> str:
    return "".join(gq.generate(directory, "hello", options=gq.GenerationOptions(max_new_tokens=4)))


def test_a_bundle_in_the_hubs_cache_answers_as_itself(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    snapshot = cached(tmp_path / "copy", tmp_path / "hub", "models--me--bundle")
    assert say(snapshot) == say(snapshot.parents[1]) == say(bundle)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "config.json", "genai_config.json"])
def test_a_bundles_link_out_is_not_followed(bundle: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "b" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="link out"):
        require_bundle(tmp_path / "b")


@pytest.mark.parametrize(("content", "what"), [(LFS_POINTER, "Git LFS pointer"), (HTML_PAGE, "an HTML page")])
@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "config.json"])
def test_what_stands_in_place_of_a_bundles_file(
    bundle: Path, tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / name).write_bytes(content)
    with pytest.raises(ExportError, match=what) as caught:
        require_bundle(tmp_path / "b")
    assert name in str(caught.value.hint)


def test_a_bundle_that_holds_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="not a regular file"):
        require_bundle(tmp_path)


@follows("did you mean {}?", "without_graph")
def test_a_directory_that_holds_the_bundle_leads_to_it(bundle: Path) -> None:
    for given in (bundle.parent, bundle.with_name("onx")):
        with pytest.raises(ExportError, match="is not an ONNX bundle") as caught:
            require_bundle(given)
        require_bundle(advised(caught.value))


def test_a_checkpoint_and_an_adapter_are_no_bundles(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        require_bundle(plain(tmp_path / "model"))
    assert "`export` makes a bundle of it" in str(caught.value.hint)
    (tmp_path / "adapter").mkdir()
    adapter()(tmp_path / "adapter")
    with pytest.raises(ExportError) as caught:
        require_bundle(tmp_path / "adapter")
    assert "a LoRA adapter" in str(caught.value.hint)


def test_a_bundles_file_in_place_of_its_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    error = without_graph(tmp_path / "model.onnx")
    assert "it is a file" in error.what
    assert error.where == tmp_path / "model.onnx"
    assert error.hint == f"give its directory, {tmp_path}"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="an ONNX bundle, not a checkpoint"):
        open_checkpoint(tmp_path / "model.onnx")
