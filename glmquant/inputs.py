"""What the verbs are given, read into values: checkpoints, texts, calibrations, options."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from glmquant import assets
from glmquant.core.matmul import dtype_for
from glmquant.data.calibration import Calibration, CalibrationSet, sample_calibration
from glmquant.data.labeled import LabeledSet
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.recipe.schema import CheckOptions, Recipe, Task
from glmquant.store.calibration import read_calibration
from glmquant.store.checkpoint import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from glmquant.onnx_export.bundle import OnnxBundle

log = logging.getLogger("glmquant")
PACKAGED_CALIBRATION = ("glmquant:calibration.txt",)


def open_model(model: str | Path, recipe: Recipe | None) -> Checkpoint:
    """The checkpoint, its lineage as the recipe says."""
    return open_checkpoint(model, family=recipe.model.family if recipe else None)


def bundle_path(bundle: OnnxBundle | str | Path) -> Path:
    """Where a bundle lies."""
    return Path(bundle) if isinstance(bundle, str | Path) else bundle.path


def file_names(files: Sequence[str | Path] | str | Path | None) -> tuple[str, ...]:
    """One file or several, by name."""
    if files is None:
        return ()
    return (str(files),) if isinstance(files, str | Path) else tuple(str(name) for name in files)


def sample_texts(checkpoint: Checkpoint, recipe: Recipe, files: tuple[str, ...]) -> CalibrationSet:
    """Calibration samples of ``files``, or of the recipe's, or of the packaged text."""
    options = recipe.calibration
    files = files or options.data
    if not files:
        log.info("no calibration text given: using the packaged sample; text like your own would serve you better")
        files = PACKAGED_CALIBRATION
    return sample_calibration(
        [Path(assets.resolve(name)) for name in files],
        options.weights if files == options.data else (),
        load_tokenizer(checkpoint.path, checkpoint.config),
        num_samples=options.num_samples,
        seq_len=options.seq_len,
        seed=options.seed,
        sampling=options.sampling,
    )


def samples_of(calibration: Calibration | CalibrationSet | str | Path | None) -> CalibrationSet | None:
    """The samples of a calibration, however it is given."""
    if isinstance(calibration, str | Path):
        calibration = read_calibration(Path(calibration))
    return calibration.samples if isinstance(calibration, Calibration) else calibration


def require_own_tokens(samples: CalibrationSet, tokenizer: GlmTokenizer, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError where ``samples`` are not of ``tokenizer``, the checkpoint's."""
    if samples.tokenizer != tokenizer.sha256:
        raise CheckpointError(
            "the calibration was made with another tokenizer",
            where=checkpoint.path,
            expected=f"the tokenizer of sha256 {samples.tokenizer}",
            hint="run `glmquant calibrate` with this checkpoint",
        )


def resume_key(
    checkpoint: Checkpoint,
    recipe: Recipe,
    samples: CalibrationSet | None,
    labeled: LabeledSet | None = None,
    *,
    device: torch.device,
) -> str:
    """sha256 of all that decides what an unfinished run would write."""
    data = [samples.sha256 if samples else None, labeled.sha256 if labeled else None]
    computed_in = [version("torch"), device.type, str(dtype_for(recipe.calibration.precision, device))]
    inputs = [version("glmquant"), checkpoint.fingerprint, recipe.model_dump(mode="json"), data, computed_in]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def check_options(options: CheckOptions, text: tuple[str, ...], tasks: Sequence[str | Path] | None) -> CheckOptions:
    """``options`` with what the caller named in place of the recipe's, packaged files resolved."""
    chosen = text or options.text
    labeled = options.tasks if tasks is None else tuple(Task(data=str(name)) for name in tasks)
    return options.model_copy(
        update={
            "text": tuple(assets.resolve(name) for name in chosen),
            "tasks": tuple(_with_files(task) for task in labeled),
        }
    )


def _with_files(task: Task) -> Task:
    shots = task.few_shot
    if shots is not None:
        shots = shots.model_copy(update={"data": assets.resolve(shots.data)})
    return task.model_copy(update={"data": assets.resolve(task.data), "few_shot": shots})
