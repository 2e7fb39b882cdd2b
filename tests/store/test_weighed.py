"""Fields of config.json that the tensors contradict: the tensors are read, and the log says so."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import glmquant as gq
from glmquant.errors import CheckpointError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.store.checkpoint import open_checkpoint
from glmquant.store.tensors import StoredTensor
from tests.support.checkpoints import float_tensors, tiny_config, write_checkpoint
from tests.support.handed import EMBEDDING, edit, plain, saved, weights
from tests.support.paths import contents

E, H, NATIVE_HEAD = "model.embed_tokens.weight", "lm_head.weight", "transformer.output_layer.weight"


def tied(directory: Path, **changed: Tensor | None) -> Path:
    config = tiny_config(tied=True)
    tensors: dict[str, Tensor | None] = {**float_tensors(config), H: None}
    tensors |= {{"e": E, "h": H}[name]: tensor for name, tensor in changed.items()}
    return write_checkpoint(directory, config, {n: t for n, t in tensors.items() if t is not None})


def logits(directory: Path) -> np.ndarray[Any, Any]:
    (found,) = BaselineSource(open_checkpoint(directory)).logits([Query(np.array([5, 6, 7, 8]), 4)])
    return found


def by_transformers(directory: Path) -> np.ndarray[Any, Any]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        found: np.ndarray[Any, Any] = model(torch.tensor([[5, 6, 7, 8]])).logits[0].numpy()
    return found


OWN = float_tensors(tiny_config())[E]
TIED: dict[str, tuple[dict[str, Tensor | None], bool, str]] = {
    "GLM-Edge without a head": ({}, True, ""),
    "llama.cpp#13328, an equal head": ({"h": OWN.clone()}, True, ""),
    "transformers#42612, another head": ({"h": OWN * 2 + 1}, False, "differs from the embedding"),
    "LLaMA-Factory#10560, one value of the last row differs": (
        {"h": torch.cat([OWN[:-1], OWN[-1:] + torch.eye(1, 64).half()])}, False, "differs from the embedding",
    ),
    "the head saved in place of the embedding": ({"e": None, "h": OWN}, True, "is read in its place"),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "is_tied", "told"), TIED.values(), ids=TIED.keys())
def test_a_tied_flag_is_weighed_as_transformers_does(
    tmp_path: Path, changed: dict[str, Tensor | None], is_tied: bool, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tied(tmp_path / "c", **changed)
    with caplog.at_level(logging.INFO, "glmquant"):
        assert open_checkpoint(directory).config.tie_word_embeddings is is_tied
    assert told in caplog.text
    assert (caplog.text == "") == (told == "")
    np.testing.assert_allclose(logits(directory), by_transformers(directory), atol=2e-4, rtol=1e-4)


def test_the_publishers_layout_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was an error here, for equal heads as well."""
    equal = edit(saved(tmp_path / "equal", weights() | {NATIVE_HEAD: weights()[EMBEDDING]}), tie_word_embeddings=True)
    checkpoint = open_checkpoint(equal)
    assert checkpoint.config.tie_word_embeddings
    assert caplog.text == ""
    other = edit(plain(tmp_path / "other"), tie_word_embeddings=True)
    checkpoint = open_checkpoint(other)
    assert not checkpoint.config.tie_word_embeddings
    assert torch.equal(checkpoint.lm_head().weight, weights()[NATIVE_HEAD])  # type: ignore[arg-type]
    assert "differs from the embedding" in caplog.text


def test_a_tied_classifier_has_no_such_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tied(tmp_path / "c", h=OWN + 1)
    tensors = load_file(directory / "model.safetensors") | {"score.weight": OWN[:2].clone()}
    save_file(tensors, directory / "model.safetensors")
    for architectures in (["GlmForSequenceClassification"], []):
        assert open_checkpoint(edit(directory, architectures=architectures)).config.num_labels == 2
    assert "differs" not in caplog.text


def test_a_head_in_another_dtype_is_compared_by_value(tmp_path: Path) -> None:
    assert open_checkpoint(tied(tmp_path / "c", h=OWN.float())).config.tie_word_embeddings


def test_only_a_tied_checkpoint_with_both_reads_weights_to_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, tuple[int, int] | None]] = []
    original = StoredTensor.read

    def counted(tensor: StoredTensor, rows: tuple[int, int] | None = None) -> Tensor:
        read.append((tensor.name, rows))
        return original(tensor, rows)

    monkeypatch.setattr(StoredTensor, "read", counted)
    open_checkpoint(plain(tmp_path / "native"))
    open_checkpoint(write_checkpoint(tmp_path / "canonical", tiny_config()))
    open_checkpoint(tied(tmp_path / "tied"))
    assert read == []
    monkeypatch.setattr("glmquant.store.weighed.CHUNK_BYTES", 16 * 64 * 2)
    open_checkpoint(tied(tmp_path / "both", h=torch.cat([OWN[:16] + 1, OWN[16:]])))
    assert {rows for _, rows in read} == {(0, 16)}, "some rows at a time, and none after the first difference"


SECTIONS: dict[str, Any] = {
    "open-instruct#149: load_in_8bit": {"load_in_8bit": True, "llm_int8_threshold": 6.0},
    "unsloth#105: bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "mlx-examples#270: bits and group size": {"bits": 4, "group_size": 64},
    "GPTQ": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "AWQ": {"quant_method": "awq", "bits": 4},
    "FP8": {"quant_method": "fp8", "activation_scheme": "dynamic"},
    "null": {},
    "a list": [],
}


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS.keys())
def test_float_weights_are_float_whatever_is_said_of_them(
    tmp_path: Path, section: Any, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = open_checkpoint(edit(plain(tmp_path / "c"), quantization_config=section))
    assert checkpoint.quantization is None
    assert "quantization_config speaks of quantized weights, and they are float" in caplog.text


def test_a_stale_quantize_config_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = plain(tmp_path / "c")
    (directory / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128}))
    assert open_checkpoint(directory).quantization is None
    assert "quantize_config.json speaks of quantized weights" in caplog.text


def test_every_verb_takes_float_weights_with_a_stale_section(tmp_path: Path) -> None:
    recipe = gq.load_recipe("int8-rtn")
    stale = edit(plain(tmp_path / "stale"), quantization_config={"load_in_8bit": True})
    assert gq.inspect(stale).quantization is None
    gq.quantize(stale, recipe, out=tmp_path / "quantized")
    assert open_checkpoint(tmp_path / "quantized").quantization == "gptq"
    gq.export(stale, recipe, out=tmp_path / "onnx")
    gq.export(plain(tmp_path / "plain"), recipe, out=tmp_path / "plain-onnx")
    same = [contents(tmp_path / name)["model.onnx.data"] for name in ("onnx", "plain-onnx")]
    assert same[0] == same[1]


@pytest.mark.parametrize("method", ["awq", "bitsandbytes", "fp8"])
def test_quantized_weights_of_others_are_still_refused(tmp_path: Path, method: str) -> None:
    name = "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight"
    packed = weights() | {name: torch.zeros(704, 64, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match=f"quantized by '{method}'"):
        open_checkpoint(edit(saved(tmp_path / "c", packed), quantization_config={"quant_method": method}))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_publishers_own_flag_beside_float_weights(
    tmp_path: Path, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    """ChatGLM2-6B's ptuning/train.sh takes --quantization_bit, and the configuration keeps it."""
    checkpoint = open_checkpoint(edit(plain(tmp_path / "c"), quantization_bit=bits))
    assert checkpoint.quantization is None
    assert f"quantization_bit is {bits}" in caplog.text


SPELLINGS = {
    "float16": ["float16", "torch.float16", "fp16", "half", "torch.half", "Float16", "f16"],
    "bfloat16": ["bfloat16", "torch.bfloat16", "bf16", "BF16"],
    "float32": ["float32", "torch.float32", "fp32", "float"],
}


@pytest.mark.parametrize("field", ["torch_dtype", "dtype"])
@pytest.mark.parametrize(("dtype", "said"), [(dtype, said) for dtype, all_ in SPELLINGS.items() for said in all_])
def test_dtype_in_every_spelling(tmp_path: Path, field: str, dtype: str, said: str) -> None:
    directory = edit(write_checkpoint(tmp_path / "c", tiny_config()), drop=("dtype", "torch_dtype"), **{field: said})
    assert open_checkpoint(directory).config.float_dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("said", [None, "auto"])
def test_dtype_from_the_tensors_where_none_is_said(tmp_path: Path, dtype: torch.dtype, said: str | None) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in float_tensors(tiny_config()).items()}
    directory = write_checkpoint(tmp_path / "c", tiny_config(), tensors)
    edit(directory, drop=("dtype", "torch_dtype"), **({} if said is None else {"torch_dtype": said}))
    assert open_checkpoint(directory).config.float_dtype == str(dtype).removeprefix("torch.")


def test_a_dtype_that_is_not_the_tensors_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {name: tensor.float() for name, tensor in float_tensors(tiny_config()).items()}
    with caplog.at_level(logging.INFO, "glmquant"):
        open_checkpoint(write_checkpoint(tmp_path / "c", tiny_config(), tensors))
    assert "dtype is float16, and the weights are float32" in caplog.text


@pytest.mark.parametrize("said", ["int8", "float64", "torch.", 16, ["float16"]])
def test_dtypes_of_no_weights(tmp_path: Path, said: object) -> None:
    with pytest.raises(CheckpointError, match="torch_dtype is"):
        open_checkpoint(edit(write_checkpoint(tmp_path / "c", tiny_config()), drop=("dtype",), torch_dtype=said))
