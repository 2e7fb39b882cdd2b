"""One pass of the float model over the calibration samples, recording the range of every linear's inputs."""

import torch
from torch import Tensor

from glmquant.core.stats import RangeAccumulator
from glmquant.data.calibration import Calibration, CalibrationSet, KeyValueRange
from glmquant.errors import CheckpointError
from glmquant.glm.block import (
    Block,
    add_attention,
    add_mlp,
    attend,
    attention_input,
    gate,
    mlp_input,
    rms_norm,
    split_heads,
)
from glmquant.glm.config import GlmConfig, LinearGroup, block_groups, head_group, linear_groups
from glmquant.pipeline.activations import Activations, embed
from glmquant.progress import Progress, silent
from glmquant.store.checkpoint import Checkpoint


def calibrate(checkpoint: Checkpoint, samples: CalibrationSet, progress: Progress = silent) -> Calibration:
    """Statistics of the inputs of every linear group and of keys and values, in float32, one block in memory.

    Raises:
        CheckpointError: activations are not finite.
        CalibrationError: token ids that are not the model's.
    """
    config = checkpoint.config
    activations = embed(samples.tokens_SL, checkpoint.embedding(), config)
    ranges = {group.name: RangeAccumulator(group.columns) for group in linear_groups(config)}
    key_values = []
    for layer in range(config.num_hidden_layers):
        progress("calibrating", layer, config.num_hidden_layers)
        key_values.append(_observe(checkpoint.block(layer), block_groups(config, layer), config, activations, ranges))
        _require_finite(activations.hidden_SLD, layer)
    norm_D = checkpoint.final_norm()
    for batch in () if config.num_labels else activations.batches():
        ranges[head_group(config).name].add(rms_norm(activations.hidden_SLD[batch], norm_D, config.rms_norm_eps))
    progress("calibrating", config.num_hidden_layers, config.num_hidden_layers)
    inputs = {name: accumulator.result() for name, accumulator in ranges.items()}
    return Calibration(samples, inputs, tuple(key_values))


def _observe(
    block: Block,
    groups: tuple[LinearGroup, ...],
    config: GlmConfig,
    activations: Activations,
    ranges: dict[str, RangeAccumulator],
) -> KeyValueRange:
    qkv_range, o_range, gate_up_range, down_range = (ranges[group.name] for group in groups)
    linears = (block.qkv_proj, block.o_proj, block.gate_up_proj, block.down_proj)
    qkv_proj, o_proj, gate_up_proj, down_proj = (linear.floating() for linear in linears)
    keys, values = RangeAccumulator(config.key_value_rows), RangeAccumulator(config.key_value_rows)
    x_SLD = activations.hidden_SLD
    for batch in activations.batches():
        x = x_SLD[batch]
        attention_in = attention_input(x, block, config)
        query, key, value = split_heads(qkv_proj(attention_in), config, activations.rope)
        context = attend(query, key, value, None)
        x = add_attention(x, o_proj(context), block, config)
        mlp_in = mlp_input(x, block, config)
        inner = gate(gate_up_proj(mlp_in))
        x_SLD[batch] = add_mlp(x, down_proj(inner), block, config)
        seen = ((qkv_range, attention_in), (o_range, context), (gate_up_range, mlp_in), (down_range, inner))
        for accumulator, value_seen in (*seen, (keys, key.flatten(-2)), (values, value.flatten(-2))):
            accumulator.add(value_seen)
    shape = (config.num_key_value_heads, config.head_dim)
    return KeyValueRange(keys.result().absmax_K.view(shape), values.result().absmax_K.view(shape))


def _require_finite(hidden_SLD: Tensor, layer: int) -> None:
    if not torch.isfinite(hidden_SLD).all():
        raise CheckpointError(
            "the model's activations are not finite",
            where=f"after layers.{layer}",
            expected="finite values in float32",
            fix="check the checkpoint: its weights are damaged or belong to another architecture",
        )
