"""What every packaged recipe writes on small checkpoints of every kind, as hashes of its files.

    python tests/same_bytes/record.py MODELS OUT.json

``MODELS`` is what :mod:`tests.same_bytes.models` wrote. Only the command line is used, so that an older release on
``PYTHONPATH`` can be recorded as well.
"""

import contextlib
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

Hashes = dict[str, str]

CALIBRATED = ("int4-g128-gptq", "int4-g128-gptq-fast", "int4-auto-4.25", "demo")
ROUNDED = ("int8-rtn", "int4-g128-rtn")
SAMPLES = ("calibration.num_samples=6", "calibration.seq_len=48", 'calibration.data=["glmquant:calibration.txt"]')
CHECK = ('check.text=["glmquant:held-out-en.txt"]', "check.num_tokens=256", "check.seq_len=32", "check.tasks=[]")
FOR_ALL = ("export.max_length=64", "check.limits={}")
ALLOCATED = "rules.1.alternatives=[{bits: 8, group_size: 128}, {bits: 4, group_size: 32, symmetric: false}]"
CLASSIFIER_SETTINGS = ("train.epochs=2", "train.test=0.2", "check.limits={}", "export.max_length=64")
LIBRARIES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "safetensors", "tokenizers", "transformers")
NOT_BYTES = ("training.json", "training.md", "run.json", "README.md")
CHANGED_SINCE = ("recipe", "format_version", "limits", "calibration_texts", "training_texts", "arithmetic")
HASHES = ("files", "sha256")
REPORTED = ("limits", "language", "texts", "tasks", "regression")


def cases() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, recipe and overrides of each."""
    check = (*CHECK, *_last_windows())
    for recipe in (*CALIBRATED, *ROUNDED):
        yield recipe, recipe, (*SAMPLES, *check, *FOR_ALL, *((ALLOCATED,) if "auto" in recipe else ()))
    yield "int8-rtn, cache int8", "int8-rtn", (*SAMPLES, *check, *FOR_ALL, "export.kv_cache=int8")
    yield "gptq, float32", "int4-g128-gptq", (*SAMPLES, *check, *FOR_ALL, "calibration.precision=float32")
    yield "int8-rtn, standard", "int8-rtn", (*check, *FOR_ALL, "export.profile=standard")


def _last_windows() -> tuple[str, ...]:
    """Release 0.1 took windows from the end of a text, and knew no other place."""
    try:
        from glmquant.recipe.check_options import CheckOptions
    except ImportError:
        return ()
    return ("check.windows=last",) if "windows" in CheckOptions.model_fields else ()


def record(models: Path) -> dict[str, Hashes]:
    """Hashes of what each case writes for each model, by ``model: case``."""
    found = {}
    for model in sorted(path for path in models.iterdir() if path.is_dir()):
        for name, recipe, settings in cases():
            found[f"{model.name}: {name}"] = _run(("run", recipe, "--model", str(model)), settings)
        found[f"{model.name}: direct"] = _run(("export", str(model), "--recipe", "int4-g128-rtn"), FOR_ALL)
    data = ("--train-data", str(models / "labeled.jsonl"))
    command = ("run", "classifier-int8", "--model", str(models / "chatglm2-tiny"), *data)
    found["chatglm2-tiny: classifier-int8"] = _run(command, CLASSIFIER_SETTINGS)
    return found


def _run(command: tuple[str, ...], settings: tuple[str, ...]) -> Hashes:
    from glmquant.cli import main

    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        overrides = [part for setting in settings for part in ("--set", setting)]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main([*command, *overrides, "--out", str(out), "--quiet"])
            except SystemExit as stopped:
                if stopped.code not in (0, 1, 3, 4):
                    raise RuntimeError(f"{command}: {said.getvalue()}") from stopped
        return dict(_hashes(out))


def _hashes(out: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.name == "glmquant.json":
            yield name, _digest(_manifest(json.loads(path.read_text(encoding="utf-8"))))
        elif path.name == "report.json":
            yield name, _digest(_numbers(json.loads(path.read_text(encoding="utf-8"))))
        elif path.is_file() and "report" not in path.parts and path.name not in NOT_BYTES:
            yield name, hashlib.sha256(_content(path)).hexdigest()[:16]


def _content(path: Path) -> bytes:
    """A calibration's as formats without hashes have it."""
    if path.name == "calibration.json":
        described = json.loads(path.read_text(encoding="utf-8")) | {"format": 2}
        return (json.dumps(described, ensure_ascii=False, indent=1) + "\n").encode()
    return save(load_file(path)) if path.name == "calibration.safetensors" else path.read_bytes()


def _manifest(values: dict[str, Any]) -> dict[str, Any]:
    """All but the recipe, whose keys have been renamed since, what format version 3 added, and hashes of files."""
    return {name: value for name, value in values.items() if name not in (*CHANGED_SINCE, *HASHES)}


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """All but hashes of what was read, which reports had none of."""
    tasks = [{name: value for name, value in task.items() if name != "sha256"} for task in values["tasks"]]
    return {name: values[name] for name in REPORTED} | {"tasks": tasks}


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def by_stage(recorded: dict[str, Hashes]) -> dict[str, str]:
    """One hash for what each stage of a case wrote, by ``model: case/stage``."""
    stages: dict[str, list[tuple[str, str]]] = {}
    for case, files in recorded.items():
        for name, found in sorted(files.items()):
            stages.setdefault(f"{case}/{name.partition('/')[0] if '/' in name else 'onnx'}", []).append((name, found))
    return {stage: _digest(found) for stage, found in stages.items()}


def machine_class() -> str:
    """What the bytes depend on: torch's build, the processor's instructions, precision, and the libraries."""
    import torch

    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    precision = "bfloat16" if native and torch.backends.mkldnn.is_available() else "float32"
    capability = torch.backends.cpu.get_cpu_capability()
    amx = "+AMX" if torch.cpu._is_amx_tile_supported() else ""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"torch {torch.__version__}, {capability}{amx}, {precision}, {libraries}"


if __name__ == "__main__":
    models, out = map(Path, sys.argv[1:3])
    out.write_text(json.dumps(record(models), indent=1) + "\n", encoding="utf-8")
