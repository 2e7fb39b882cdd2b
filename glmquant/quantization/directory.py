"""Quantizing into a directory that appears whole, and in which a killed run resumes."""

import hashlib
import json
import logging
import time
from importlib.metadata import version
from pathlib import Path

import torch

from glmquant.core.matmul import dtype_for
from glmquant.data.calibration import CalibrationSet
from glmquant.data.labeled import LabeledSet
from glmquant.progress import Progress, silent
from glmquant.quantization.calibrate import require_own_tokens
from glmquant.quantization.memory import quantize_bytes
from glmquant.quantization.quantize import quantize
from glmquant.quantization.work import quantize_rate
from glmquant.recipe.plan import Plan
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.output import output_directory
from glmquant.streaming.resources import Resources

log = logging.getLogger("glmquant")


def quantize_directory(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet | None,
    out: Path,
    resources: Resources,
    progress: Progress = silent,
) -> Checkpoint:
    """Writes the quantized checkpoint with its tokenizer to ``out``, and opens it.

    Raises:
        OutputError: ``out`` is occupied, or the memory limit too low.
        CalibrationError, QuantizationError, DeviceError: see :func:`glmquant.quantization.quantize.quantize`.
    """
    if samples is not None:
        require_own_tokens(samples, checkpoint)
    dtype = dtype_for(plan.recipe.calibration.precision, resources.device)
    store = resources.store(quantize_bytes(plan, dtype), out.resolve().parent)
    key = resume_key(checkpoint, plan, samples, device=resources.device)
    with output_directory(out, resume_key=key) as partial, resources.in_use():
        started = time.monotonic()
        done = quantize(checkpoint, plan, samples, partial, progress, store=store, dtype=dtype)
        log.info(quantize_rate(checkpoint, plan, samples, done, time.monotonic() - started))
        checkpoint.tokenizer.save(partial)
    return open_checkpoint(out)


def resume_key(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet | None,
    labeled: LabeledSet | None = None,
    *,
    device: torch.device,
) -> str:
    """sha256 of all that decides what an unfinished run would write."""
    recipe = plan.recipe
    data = [samples.sha256 if samples else None, labeled.sha256 if labeled else None]
    computed_in = [version("torch"), device.type, str(dtype_for(recipe.calibration.precision, device))]
    inputs = [version("glmquant"), checkpoint.fingerprint, recipe.model_dump(mode="json"), data, computed_in]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
