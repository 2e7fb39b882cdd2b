"""What each stage of a run depends on, as hashes: a stage whose inputs are the same is not done again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from glmquant.core.matmul import dtype_for
from glmquant.core.untrusted import file_inside, read_bytes
from glmquant.data.calibration import CalibrationSet
from glmquant.data.labeled import LabeledSet
from glmquant.errors import CheckpointError
from glmquant.evaluation.results import AccuracyReport
from glmquant.quantization.directory import resume_key
from glmquant.recipe.check_options import CheckOptions
from glmquant.recipe.plan import Plan
from glmquant.store.checkpoint import Checkpoint
from glmquant.streaming.resources import Resources

SIDE_SUFFIXES: Final = (".json", ".jinja", ".model", ".txt")
MOST_SIDE_BYTES: Final = 64 << 20


def run_key(checkpoint: Checkpoint) -> str:
    """What every stage of a run depends on: another model is another run."""
    return _hash("run", version("glmquant"), checkpoint.fingerprint)


def stage_keys(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet | None,
    labeled: LabeledSet | None,
    check: str,
    resources: Resources,
) -> dict[str, str]:
    """For each stage that there is, the hash of its inputs, recipe keys that only a later one reads not among them."""
    recipe, side_files = plan.recipe, _side_files(checkpoint.path)
    keys: dict[str, str] = {}
    if labeled is not None:
        held_out = None if recipe.check.tasks else recipe.train.test
        trained_by = [recipe.train.identity(), held_out, resources.device.type]
        keys["classifier"] = _hash(side_files, labeled.sha256, trained_by)
    trained = keys.get("classifier")
    keys["quantized"] = _hash(
        resume_key(checkpoint, plan, samples, device=resources.device), side_files, trained, plan.config.labels
    )
    if samples is not None and plan.needs_ranges:
        keys["calibration"] = _hash(
            trained,
            samples.sha256,
            [asdict(source) for source in samples.sources],
            [samples.seed, samples.sampling, version("torch"), resources.device.type],
            str(dtype_for(recipe.calibration.precision, resources.device)),
        )
    said = [recipe.identity(), recipe.check.limits.model_dump(mode="json"), [] if samples is None else samples.texts]
    keys["onnx"] = _hash(
        keys["quantized"], keys.get("calibration"), recipe.export.model_dump(mode="json"), said, side_files
    )
    keys["report"] = _hash(keys["onnx"], check)
    return keys


def check_key(options: CheckOptions, data: Sequence[str], against: AccuracyReport | None) -> str:
    """Hash of what a check reads: its options, data as hashed, and the report that it is compared with."""
    return _hash(options.model_dump(mode="json"), data, None if against is None else against.to_dict())


def _side_files(directory: Path) -> str:
    """Hash of tokenizer, templates and settings, which travel to the bundle and are no part of the fingerprint."""
    digest = hashlib.sha256()
    for found in sorted(path for path in directory.rglob("*") if path.suffix in SIDE_SUFFIXES):
        name = found.relative_to(directory).as_posix()
        try:
            content = read_bytes(file_inside(directory, name, where=directory), MOST_SIDE_BYTES)
        except CheckpointError:  # none of its files, which whoever reads it will say
            continue
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\0".encode())
    return digest.hexdigest()


def _hash(*inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
