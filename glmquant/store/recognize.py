"""What a directory is that holds no checkpoint to read, by the names of its files, and what to do with it instead."""

import os
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Any, Final

from glmquant.core.hub_cache import snapshot
from glmquant.core.near import did_you_mean
from glmquant.core.untrusted import REPOSITORY, file_inside, read_json, shown
from glmquant.errors import CheckpointError, ExportError

CONFIG: Final = "config.json"
GRAPH: Final = "model.onnx"
ADAPTER_CONFIG: Final = "adapter_config.json"
EXPECTED: Final = "a checkpoint: config.json and weights"
MOST_FILES: Final = 10_000
MOST_NAMED: Final = 5

Names = Sequence[str]


def listed(directory: Path) -> list[str]:
    """Names in a directory, sorted, at most :data:`MOST_FILES`; none where it cannot be listed."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in islice(entries, MOST_FILES))
    except OSError:
        return []


def without_graph(directory: Path) -> ExportError:
    """The error for what is given as an ONNX bundle and has no graph."""
    what = "" if directory.is_dir() else ": it is a file" if directory.exists() else ": there is no such directory"
    return ExportError(
        f"{directory} is not an ONNX bundle{what}",
        where=directory / GRAPH if directory.is_dir() else directory,
        expected="a directory that `export` or `run` wrote",
        hint=_way_to_a_bundle(directory) or "give the path of such a directory; bundles are not downloaded",
    )


def _way_to_a_bundle(directory: Path) -> str | None:
    if not directory.is_dir():
        if directory.exists():
            return f"give its directory, {directory.parent}" if (directory.parent / GRAPH).is_file() else None
        return did_you_mean(directory, "directory")
    if (directory / "onnx" / GRAPH).is_file():
        return f"did you mean {directory / 'onnx'}?"
    names = listed(directory)
    known = _known(directory, names)
    if known is not None:
        return f"{known.what}: {known.hint}"
    return "it looks like a checkpoint: `export` makes a bundle of it" if CONFIG in names else None


def existing_directory(directory: str | Path) -> Path:
    """The directory of a checkpoint, of the hub's cache too.

    Raises:
        CheckpointError: none of that name, a file, or a cache with several snapshots.
    """
    path = Path(directory)
    if path.is_dir():
        return snapshot(path).resolve()
    if path.exists():
        raise _not_a_directory(path)
    hint = did_you_mean(path, "directory")
    raise CheckpointError("the checkpoint directory does not exist", where=path, hint=hint)


def _not_a_directory(path: Path) -> CheckpointError:
    of_its_own = {".gguf": path, ".onnx": path.parent}
    if (where := of_its_own.get(path.suffix.lower())) is not None:
        error = _known(where, [path.name])
        assert error is not None
        return error
    has_config = (path.parent / CONFIG).is_file()
    return CheckpointError(
        "a checkpoint is a directory, this is a file",
        where=path,
        hint=f"give its directory, {path.parent}" if has_config else "give the directory that holds config.json",
    )


def without_config(directory: Path) -> CheckpointError:
    """The error for a directory without ``config.json``."""
    names = listed(directory)
    found = _known(directory, names)
    if found is not None:
        return found
    return CheckpointError(
        f"the directory has no {CONFIG}" + (": it is empty" * (not names)),
        where=directory,
        expected="a checkpoint directory as its publisher ships it",
        hint=_other_directory(directory, names) or "give the directory that holds config.json and the weights",
    )


def without_weights(directory: Path, names: Names) -> CheckpointError:
    """The error for a directory with ``config.json`` and no file of weights."""
    found = _known(directory, names)
    if found is not None:
        return found
    return CheckpointError(
        "the checkpoint directory holds no weights",
        where=directory,
        expected="model.safetensors, pytorch_model.bin, or their index (*.index.json) and all that it names",
        hint=_other_directory(directory, names) or "download the checkpoint again, completely",
    )


def _other_directory(directory: Path, names: Names) -> str | None:
    """Where the checkpoint may be: below, or above."""
    below = [directory / name for name in names if _may_be_meant(directory / name)]
    if below:
        more = " or one of the others there" if len(below) > MOST_NAMED else ""
        return "did you mean " + " or ".join(map(str, below[:MOST_NAMED])) + f"{more}?"
    if CONFIG not in names and (directory.parent / CONFIG).is_file():
        return f"did you mean {directory.parent}? It has a {CONFIG}"
    return None


def _may_be_meant(path: Path) -> bool:
    is_checkpoint = (path / CONFIG).is_file() and not (path / GRAPH).exists()
    return is_checkpoint or (REPOSITORY.fullmatch(path.name) is not None and (path / "snapshots").is_dir())


def _known(directory: Path, names: Names) -> CheckpointError | None:
    for is_it, error in KINDS:
        if is_it(names):
            return error(directory, names)
    return None


def _error(what: str, hint: str) -> Callable[[Path, Names], CheckpointError]:
    """``hint`` may name the directory: plain, as a shell reads it (``{quoted}``), as Python does (``{text}``)."""

    def make(directory: Path, _: Names) -> CheckpointError:
        named = hint.format(directory=directory, quoted=quote(str(directory)), text=repr(str(directory)))
        return CheckpointError(what, where=directory, expected=EXPECTED, hint=named)

    return make


def _run(directory: Path, names: Names) -> CheckpointError:
    bundle = f"{directory / 'onnx'}, where a bundle is taken"
    return CheckpointError(
        "the directory is what `run` wrote, not a checkpoint",
        where=directory,
        expected=EXPECTED,
        hint=f"give {directory / 'quantized'}, or {bundle}" if "quantized" in names else f"give {bundle}",
    )


def _adapter(directory: Path, names: Names) -> CheckpointError:
    values = _adapter_config(directory) if ADAPTER_CONFIG in names else {}
    kind, base = values.get("peft_type", "LORA"), values.get("base_model_name_or_path")
    named = f", {shown(base)}," if isinstance(base, str) and base else ""
    if kind != "LORA":
        return CheckpointError(
            f"the directory holds what {shown(kind)} trained, not a model",
            hint=f"give the base model{named} alone: of PEFT's methods only LoRA can be put into the weights",
            where=directory,
            expected=EXPECTED,
        )
    if ADAPTER_CONFIG not in names:
        return CheckpointError(
            "the directory holds a LoRA adapter without its adapter_config.json, not a model",
            hint="save it with PEFT's save_pretrained, then give the base model, and that directory as `adapter`",
            where=directory,
            expected=EXPECTED,
        )
    return CheckpointError(
        "the directory holds a LoRA adapter, not a model",
        hint=f"give the base model{named} and this directory as `adapter`",
        where=directory,
        expected=EXPECTED,
    )


def _adapter_config(directory: Path) -> dict[str, Any]:
    try:
        return read_json(file_inside(directory, ADAPTER_CONFIG, where=directory))
    except CheckpointError:
        return {}


def _has(*wanted: str) -> Callable[[Names], bool]:
    return lambda names: all(name in names for name in wanted)


def _some(pattern: str) -> Callable[[Names], bool]:
    expression = re.compile(pattern, re.IGNORECASE)
    return lambda names: any(expression.fullmatch(name) for name in names)


def _is_run(names: Names) -> bool:
    return "onnx" in names and bool({"report", "quantized", "classifier", "test.jsonl"} & set(names))


def _is_adapter(names: Names) -> bool:
    return ADAPTER_CONFIG in names or _some(r"adapter_model\..*|.*lora.*\.(pt|bin|safetensors)")(names)


KINDS: Final[tuple[tuple[Callable[[Names], bool], Callable[[Path, Names], CheckpointError]], ...]] = (
    (
        _has(GRAPH),
        _error(
            "the directory holds an ONNX bundle, not a checkpoint",
            "`generate`, `classify` and `check` take it; `check` takes the bundle first, and the float checkpoint as "
            "`baseline`",
        ),
    ),
    (
        _is_run,
        _run,
    ),
    (
        _has("calibration.json"),
        _error(
            "the directory holds a calibration, not a checkpoint",
            "`quantize` and `export` take it as `calibration`; give the checkpoint it was made from beside it",
        ),
    ),
    (
        _has("report.json"),
        _error("the directory holds an accuracy report", "`report` shows it, and `check` takes it as `against`"),
    ),
    (_is_adapter, _adapter),
    (
        _some(r"(bf16_)?zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt|global_step\d+"),
        _error(
            "the directory holds a DeepSpeed ZeRO checkpoint: the ranks have a share of each tensor",
            "put them together with `python zero_to_fp32.py . OUT` in {directory} (the script lies there, or in "
            "deepspeed/utils), copy config.json and the tokenizer's files to OUT, and give OUT",
        ),
    ),
    (
        _some(r"pytorch_model_fsdp_\d+|__\d+_\d+\.distcp"),
        _error(
            "the directory holds a sharded FSDP checkpoint",
            "put it together with `accelerate merge-weights {quoted}/pytorch_model_fsdp_0 OUT`, copy config.json "
            "and the tokenizer's files to OUT, and give OUT",
        ),
    ),
    (
        _some(r".*\.gguf|ggml.*\.bin"),
        _error(
            "the weights are a GGUF file of llama.cpp, quantized for that program",
            "give the checkpoint it was converted from, in safetensors or PyTorch's format",
        ),
    ),
    (
        _some(r".*\.onnx"),
        _error(
            "the directory holds an ONNX model that glmquant did not write",
            "give the checkpoint it was exported from, and `export` that",
        ),
    ),
    (
        _some(r"tf_model.*\.h5|.*\.ckpt\.index|saved_model\.pb|flax_model.*\.msgpack"),
        _error(
            "the weights are TensorFlow's or Flax's",
            "save them for PyTorch first: in transformers 4, AutoModelForCausalLM.from_pretrained({text}, "
            "from_tf=True or from_flax=True), then save_pretrained",
        ),
    ),
    (
        _some(r"optimizer.*\.(pt|bin|pth|safetensors)|.*_optim_states\.pt"),
        _error(
            "the directory holds an optimizer's state, and no weights",
            "give the directory that the trainer saved the model to; the optimizer serves to train on alone",
        ),
    ),
    (
        _some(r"value_head\.(bin|safetensors)|v_head\.\w+"),
        _error("the directory holds a value head alone, and no model", "give the model that it was trained on"),
    ),
)
"""In the order they are asked; each says what the files are and which command takes them."""
