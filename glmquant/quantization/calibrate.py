"""One pass of the float model over the calibration samples, recording the range of every linear's inputs."""

import torch

from glmquant.core.device import CPU
from glmquant.core.stats import RangeAccumulator
from glmquant.data.calibration import Calibration, CalibrationSet, KeyValueRange
from glmquant.errors import CheckpointError
from glmquant.glm.attention import attend
from glmquant.glm.block import Block, rms_norm
from glmquant.glm.config import LinearGroup, block_groups, head_group, linear_groups
from glmquant.progress import Progress, silent
from glmquant.store.checkpoint import Checkpoint
from glmquant.streaming.activations import Activations, Room, embed
from glmquant.streaming.block_stream import Stream
from glmquant.streaming.prefetch import blocks_ahead


@torch.inference_mode()
def calibrate(
    checkpoint: Checkpoint,
    samples: CalibrationSet,
    progress: Progress = silent,
    *,
    room: Room | None = None,
    dtype: torch.dtype = torch.float32,
) -> Calibration:
    """Statistics of the inputs of every linear group and of keys and values, one block in memory.

    Args:
        room: where activations may lie, and the device that computes.
        dtype: of the operands of matrix products; hidden states stay in float32.

    Raises:
        CheckpointError: activations are not finite.
        CalibrationError: token ids that are not the model's.
    """
    config = checkpoint.config
    room = room or Room()
    activations = embed(samples.tokens_SL, checkpoint.embedding(), config, room, dtype)
    ranges = {group.name: RangeAccumulator(group.columns, room.device) for group in linear_groups(config)}
    key_values = []
    layers = range(config.num_hidden_layers)
    for layer, block in blocks_ahead(checkpoint.block, layers):
        progress("calibrating", layer, len(layers))
        stream = Stream(block.to(room.device), config, activations)
        key_values.append(_observe(stream, stream.block.floating(dtype), block_groups(config, layer), ranges))
        _require_finite(activations, layer)
        del block, stream
    norm_D = checkpoint.final_norm().to(room.device)
    for batch in () if config.num_labels else activations.batches():
        hidden_BLD = activations.hidden.read(batch)
        ranges[head_group(config).name].add(rms_norm(hidden_BLD, norm_D, config.rms_norm_eps))
    progress("calibrating", len(layers), len(layers))
    inputs = {name: accumulator.result().to(CPU) for name, accumulator in ranges.items()}
    return Calibration(samples, inputs, tuple(key_values))


def _observe(
    stream: Stream, block: Block, groups: tuple[LinearGroup, ...], ranges: dict[str, RangeAccumulator]
) -> KeyValueRange:
    qkv_range, o_range, gate_up_range, down_range = (ranges[group.name] for group in groups)
    config = stream.config
    device = stream.activations.room.device
    keys, values = (RangeAccumulator(config.key_value_rows, device) for _ in range(2))
    for batch in stream.activations.batches():
        qkv_range.add(stream.qkv_input(batch))
        query, key, value = stream.heads(batch, block.qkv_proj)
        keys.add(key.flatten(-2))
        values.add(value.flatten(-2))
        context = attend(query, key, value, None)
        o_range.add(context)
        stream.add_attention(batch, block.o_proj(context))
        gate_up_range.add(stream.gate_up_input(batch))
        inner = stream.down_input(batch, block.gate_up_proj)
        down_range.add(inner)
        stream.add_mlp(batch, block.down_proj(inner))
    shape = (config.num_key_value_heads, config.head_dim)
    return KeyValueRange(*(seen.result().absmax_K.to(CPU).view(shape) for seen in (keys, values)))


def _require_finite(activations: Activations, layer: int) -> None:
    if not all(torch.isfinite(activations.hidden.read(batch)).all() for batch in activations.batches()):
        raise CheckpointError(
            "the model's activations are not finite",
            where=f"after layers.{layer}",
            expected="finite values in float32",
            hint="check the checkpoint: its weights are damaged or belong to another architecture",
        )
