"""Calibration samples, and where a KV cache is to be quantized the ranges of keys and values.

The float model runs for those ranges alone: methods see their inputs while they quantize.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from glmquant import assets
from glmquant.core.arithmetic import arithmetic
from glmquant.core.device import CPU
from glmquant.core.matmul import dtype_for
from glmquant.core.ranks import ALONE, Ranks
from glmquant.core.stats import AbsmaxAccumulator
from glmquant.data.calibration import Calibration, CalibrationSet, KeyValueRange, sample_calibration
from glmquant.data.reading import Reading
from glmquant.errors import CalibrationError
from glmquant.glm.model import ModelSource
from glmquant.progress import Progress, silent
from glmquant.quantization.work import forward_work, rate
from glmquant.recipe.plan import Plan
from glmquant.recipe.schema import CalibrationOptions
from glmquant.store.checkpoint import Checkpoint
from glmquant.streaming.activations import ActivationStore, embed
from glmquant.streaming.forward import Forward, walk
from glmquant.streaming.memory import forward_bytes
from glmquant.streaming.resources import Resources

log = logging.getLogger("glmquant")
PACKAGED_CALIBRATION = ("glmquant:calibration.txt",)


def sample_texts(checkpoint: Checkpoint, options: CalibrationOptions, data: Sequence[str] = ()) -> CalibrationSet:
    """Calibration samples of the files ``data``, or of the recipe's, or of the packaged text.

    Raises:
        DataError: a file that cannot be read.
        CalibrationError: too little text.
        CheckpointError: conversations, and a model without a chat template.
    """
    files = tuple(data) or options.data
    if not files:
        log.info("no calibration text given: using the packaged sample; text like your own would serve you better")
        files = PACKAGED_CALIBRATION
    return sample_calibration(
        [Path(assets.resolve(name)) for name in files],
        options.weights if files == options.data else (),
        checkpoint.tokenizer,
        num_samples=options.num_samples,
        seq_len=options.seq_len,
        seed=options.seed,
        sampling=options.sampling,
        reading=Reading("calibration", options.encoding, options.text_field),
    )


def calibrate(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet,
    resources: Resources,
    directory: Path | None = None,
    progress: Progress = silent,
) -> Calibration:
    """The samples, with ranges of keys and values where the plan needs them.

    Args:
        directory: where activations go that do not fit into memory.

    Raises:
        CheckpointError, CalibrationError: see :func:`key_value_ranges`.
        DeviceError: the device has too little memory.
    """
    dtype = dtype_for(plan.recipe.calibration.precision, resources.device)
    resources.ranks.require_same(
        lambda: {
            "the checkpoint": checkpoint.fingerprint,
            "the calibration samples": samples.sha256,
            **arithmetic(dtype, resources.device),
        }
    )
    if not plan.needs_ranges:
        return Calibration(samples)
    config, started = checkpoint.config, time.monotonic()
    store = resources.store(forward_bytes(config, dtype), directory)
    with resources.in_use():
        ranges = key_value_ranges(checkpoint, samples, progress, store=store, dtype=dtype, ranks=resources.ranks)
    work = forward_work(config, range(config.num_hidden_layers), samples.tokens_SL.numel())
    log.info(rate("calibrated", samples, work, time.monotonic() - started))
    return Calibration(samples, ranges)


def require_own_tokens(samples: CalibrationSet, checkpoint: Checkpoint) -> None:
    """Raises CalibrationError where ``samples`` were encoded by another tokenizer than the checkpoint's."""
    if samples.tokenizer != checkpoint.tokenizer.sha256:
        raise CalibrationError(
            "the calibration was made with another tokenizer",
            where=checkpoint.path,
            expected=f"the tokenizer of sha256 {samples.tokenizer}",
            hint="calibrate with this checkpoint",
        )


@torch.inference_mode()
def key_value_ranges(
    source: ModelSource,
    samples: CalibrationSet,
    progress: Progress = silent,
    *,
    store: ActivationStore | None = None,
    dtype: torch.dtype = torch.float32,
    ranks: Ranks = ALONE,
) -> tuple[KeyValueRange, ...]:
    """The largest keys and values of each layer, one block in memory.

    Args:
        store: where activations may lie, and the device that computes.
        dtype: of the operands of matrix products; the residual stream stays in float32.
        ranks: who shares the samples.

    Raises:
        CheckpointError: activations are not finite.
        CalibrationError: token ids that are not the model's.
    """
    config, store = source.config, store or ActivationStore()
    layers = config.num_hidden_layers
    seen = [[AbsmaxAccumulator(config.key_value_rows, store.device) for _ in range(2)] for _ in range(layers)]

    def show(layer: int, key_BTCE: Tensor, value_BTCE: Tensor) -> None:
        keys, values = seen[layer]
        keys.add(key_BTCE.flatten(-2))
        values.add(value_BTCE.flatten(-2))

    activations = embed(samples.tokens_SL, source.embedding(), config, store, dtype, ranks)
    walk(
        source.block,
        range(layers),
        [activations],
        Forward(on_key_values=show),
        device=store.device,
        progress=progress,
        stage="calibrating",
        total=layers,
    )
    absmax = torch.stack([each.absmax_K for of_layer in seen for each in of_layer])
    ranks.max_(absmax)
    ranges = absmax.to(CPU).view(layers, 2, config.num_key_value_heads, config.head_dim)
    return tuple(KeyValueRange(keys_CE, values_CE) for keys_CE, values_CE in ranges)
