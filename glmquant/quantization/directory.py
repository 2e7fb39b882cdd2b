"""Quantizing into a directory that appears whole, and in which a killed run resumes."""

import hashlib
import json
import logging
import time
from importlib.metadata import version
from pathlib import Path

import torch

from glmquant.core.arithmetic import arithmetic
from glmquant.core.matmul import dtype_for
from glmquant.data.calibration import CalibrationSet
from glmquant.progress import Progress, silent
from glmquant.quantization.calibrate import require_own_tokens
from glmquant.quantization.memory import quantize_bytes
from glmquant.quantization.quantize import quantize
from glmquant.quantization.work import quantize_rate
from glmquant.recipe.plan import Plan
from glmquant.store.artifact import renew_manifest, seal
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.output import output_of_all
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
    dtype, ranks = _precision(plan, resources.device), resources.ranks
    store = resources.store(quantize_bytes(plan, dtype), out.resolve().parent)
    key = resume_key(checkpoint, plan, samples, device=resources.device)
    ranks.require_same(lambda: {"what is quantized": key})
    with output_of_all(out, ranks, resume_key=key) as partial, resources.in_use():
        started = time.monotonic()
        done = quantize(checkpoint, plan, samples, partial, progress, store=store, dtype=dtype, ranks=ranks)
        log.info(quantize_rate(checkpoint, plan, samples, done, time.monotonic() - started))
        if ranks.is_first:
            checkpoint.tokenizer.save(partial)
            seal(partial)
    return open_checkpoint(out)


def resume_key(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet | None,
    *,
    device: torch.device,
) -> str:
    """sha256 of all that decides the weights an unfinished run would write.

    What only their manifest repeats, or a later stage reads, may change under it.
    """
    recipe = plan.recipe
    fitted_to = samples.sha256 if samples is not None and plan.needs_samples else None
    computed_in = arithmetic(_precision(plan, device), device)
    inputs = [version("glmquant"), checkpoint.fingerprint, recipe.weights_identity(), fitted_to, computed_in]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _precision(plan: Plan, device: torch.device) -> torch.dtype:
    """Of products with samples; where there are none, nothing is computed in less than float32."""
    return dtype_for(plan.recipe.calibration.precision, device) if plan.needs_samples else torch.float32


def take_up(directory: Path, plan: Plan, samples: CalibrationSet | None) -> Checkpoint:
    """Opens what a run with the same :func:`resume_key` finished, its manifest as this recipe would have it."""
    used = samples if plan.first_fitted is not None else None
    renew_manifest(directory, recipe=plan.recipe.identity(), calibration=used, limits=plan.recipe.check.limits)
    return open_checkpoint(directory)
