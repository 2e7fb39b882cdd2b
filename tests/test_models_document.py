"""Every row of docs/models.md is run: the last column here, the middle one with transformers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glmquant.errors import CheckpointError
from glmquant.store.checkpoint import open_checkpoint
from tests.support.checkpoints import float_tensors, tiny_config, write_checkpoint, write_config
from tests.support.handed import HTML_PAGE, LFS_POINTER, assert_same_model, cached, edit
from tests.support.moe import write_moe
from tests.support.vision import vision_model

DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
ROWS = re.findall(r"^\| (?!given|---)(.+?) \| .+ \| (.+?) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
Made = Path | list[Path]
Tensors = dict[str, Tensor]


def weights(tied: bool = False) -> Tensors:
    tensors = {name: tensor.float() for name, tensor in float_tensors(tiny_config()).items()}
    return {name: tensor for name, tensor in tensors.items() if not tied or name != "lm_head.weight"}


def whole(to: Path, tied: bool = False) -> Path:
    return write_checkpoint(to, tiny_config(tied=tied), weights(tied))


def saved(to: Path, value: Any, file: str = "pytorch_model.bin", tied: bool = False, **options: Any) -> Path:
    write_config(to, tiny_config(tied=tied))
    (to / file).parent.mkdir(exist_ok=True, parents=True)
    torch.save(value, to / file, **options)
    return to


def renamed(form: str) -> Tensors:
    return {form.format(name): tensor for name, tensor in weights().items()}


def backbone(to: Path) -> Path:
    return saved(to, {name.removeprefix("model."): tensor for name, tensor in weights(tied=True).items()}, tied=True)


def shards(to: Path) -> Path:
    names = list(weights())
    saved(to, {name: weights()[name] for name in names[:9]}, "pytorch_model-00001-of-00002.bin")
    torch.save({name: weights()[name] for name in names[9:]}, to / "pytorch_model-00002-of-00002.bin")
    return to


def sparse(to: Path, kind: str) -> Path:
    write_moe(to, kind)
    return to


def seeing(to: Path, kind: str) -> Path:
    vision_model(kind).save_pretrained(to)
    return to


def fp8(to: Path) -> Path:
    write_config(to, tiny_config())
    copy = {n: t.to(torch.float8_e4m3fn) if n.endswith("_proj.weight") else t for n, t in weights().items()}
    save_file(copy, to / "model.safetensors")
    return to


def with_file(to: Path, name: str, content: bytes) -> Path:
    write_config(to, tiny_config())
    (to / name).write_bytes(content)
    return to


def adapter(to: Path) -> Path:
    to.mkdir()
    (to / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y"}))
    save_file({"x.lora_A.weight": torch.zeros(1, 1)}, to / "adapter_model.safetensors")
    return to


def fsdp(to: Path) -> Path:
    write_config(to, tiny_config())
    (to / "pytorch_model_fsdp_0").mkdir()
    return to


def encoded(to: Path, *encodings: str) -> list[Path]:
    made = [edit(whole(to / encoding), _note="模型") for encoding in encodings]
    for directory, encoding in zip(made, encodings, strict=True):
        text = json.dumps(json.loads((directory / "config.json").read_bytes()), ensure_ascii=False)
        (directory / "config.json").write_text(text, encoding=encoding)
    return made


def dtype(to: Path, said: str) -> Path:
    return edit(whole(to), drop=("torch_dtype",), dtype=said)


HEAD, LORA = {"lm_head.weight": weights()["lm_head.weight"]}, "model.layers.0.self_attn.q_proj.lora_A.weight"
EMPTY = {name: torch.empty(0) for name in weights()}

MAKERS: dict[str, Callable[[Path], Made]] = {
    "a snapshot": lambda to: cached(whole(to / "m"), to),
    "`models--ORG--NAME`": lambda to: cached(whole(to / "m"), to).parents[1],
    "ModelScope": lambda to: whole(to / "hub" / "models" / "ZhipuAI" / "GLM-4___1"),
    "names with `": lambda to: [
        saved(to / str(i), renamed(form))
        for i, form in enumerate(("module.{}", "_orig_mod.{}", "base_model.model.{}", "my.own.{}"))
    ],
    "names without": lambda to: backbone(to / "c"),
    "a state dict inside": lambda to: [saved(to / key, {key: weights()}) for key in ("state_dict", "module", "model")],
    "pickle's": lambda to: [saved(to / str(n), weights(), pickle_protocol=n) for n in (4, 5)],
    "`model.pt`": lambda to: [saved(to / n, weights(), n) for n in ("model.pt", "consolidated.00.pth", "own.bin")],
    "all shards": lambda to: shards(to / "c"),
    "DeepSpeed's": lambda to: saved(to / "c", {"module": weights()}, "global_step1/mp_rank_00_model_states.pt"),
    "a stale": lambda to: edit(whole(to / "c"), quantization_config={"quant_method": "gptq", "bits": 4}),
    "`tie_word_embeddings: true`, and another": lambda to: saved(to / "c", weights(), tied=True),
    "`tie_word_embeddings: true`, and only": lambda to: saved(
        to / "c", {n: t for n, t in weights().items() if "embed" not in n} | HEAD, tied=True
    ),
    "no head": lambda to: saved(to / "c", weights(tied=True)),
    "`dtype": lambda to: [dtype(to / said, said) for said in ("bf16", "torch.float16")],
    "`config.json` with": lambda to: encoded(to, "utf-8-sig", "utf-16"),
    "`config.json` in GBK": lambda to: encoded(to, "gbk", "utf-16-le"),
    "`num_hidden_layers`": lambda to: [edit(whole(to / str(n)), num_hidden_layers=n) for n in (1, 3)],
    "LoRA's": lambda to: [
        saved(to / name, weights() | {name: torch.zeros(1, 64)}) for name in (LORA, "v_head.summary.weight")
    ],
    "`glm4_moe`": lambda to: [sparse(to / kind, kind) for kind in ("glm4_moe", "glm4_moe_lite")],
    "`glm4v`": lambda to: [seeing(to / kind, kind) for kind in ("glm4v", "glm46v", "glm_ocr")],
    "an FP8": lambda to: fp8(to / "c"),
    "ZeRO-3": lambda to: saved(to / "c", EMPTY),
    "Git LFS": lambda to: [
        with_file(to / str(number), "model.safetensors", content)
        for number, content in enumerate((LFS_POINTER, HTML_PAGE))
    ],
    "a LoRA adapter": lambda to: [
        adapter(to / "adapter"),
        with_file(to / "gguf", "x.gguf", b"GGUF"),
        with_file(to / "tf", "tf_model.h5", b"\x89HDF"),
        fsdp(to / "fsdp"),
        with_file(to / "bundle", "model.onnx", b""),
    ],
}
OTHERS = {
    "`tie_word_embeddings: true`, and only": "head",
    "names without": "tied",
    "`glm4_moe`": "experts",
    "`glm4v`": "images",
}
"""Rows whose weights are not those of :func:`whole`."""


def maker(given: str) -> str:
    (found,) = [start for start in MAKERS if given.startswith(start)]
    return found


def test_every_row_has_its_checkpoint() -> None:
    assert len(ROWS) == len(MAKERS) == len({maker(given) for given, _ in ROWS})


@pytest.mark.parametrize(("given", "promised"), ROWS, ids=[given for given, _ in ROWS])
def test_the_last_column(given: str, promised: str, tmp_path: Path) -> None:
    made = MAKERS[maker(given)](tmp_path)
    for directory in made if isinstance(made, list) else [made]:
        if promised.startswith("an error"):
            with pytest.raises(CheckpointError) as caught:
                open_checkpoint(directory)
            assert caught.value.hint
            continue
        ours = open_checkpoint(directory)
        if maker(given) not in OTHERS:
            assert_same_model(ours, open_checkpoint(whole(tmp_path / "whole")))
            (tmp_path / "whole" / "config.json").unlink()


BY_TRANSFORMERS: dict[str, str] = {
    "a snapshot": "same", "ModelScope": "same", "names with `": "random", "names without": "same",
    "a state dict inside": "random", "pickle's": "error", "`model.pt`": "error", "all shards": "error",
    "DeepSpeed's": "error", "a stale": "error", "`tie_word_embeddings: true`, and another": "same",
    "`tie_word_embeddings: true`, and only": "same", "no head": "random", "`dtype": "error",
    "`num_hidden_layers`": "leaves or random", "LoRA's": "same", "ZeRO-3": "error", "Git LFS": "error",
    "`models--ORG--NAME`": "error", "`glm4_moe`": "same", "`config.json` with": "error",
    "`config.json` in GBK": "error",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("start", "outcome"), BY_TRANSFORMERS.items())
def test_the_middle_column(start: str, outcome: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    made = MAKERS[start](tmp_path)
    for directory in made if isinstance(made, list) else [made]:
        try:
            _, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
        except Exception:
            assert outcome == "error", directory
            continue
        assert outcome in {"random" if report["missing_keys"] else "same", "leaves or random"}, directory
