"""What a recipe will take on this machine, reckoned before it starts.

A block of random weights of the model's own shapes is quantized by the recipe's own rules while a few random samples
pass through it. What its methods took does not depend on the number of samples, what the rest took is in proportion to
it; every other block takes the same. No weight of the checkpoint is read but for the speed of its disk.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.direct_io import DirectWriter
from glmquant.core.matmul import dtype_for
from glmquant.core.packing import pack_blocks
from glmquant.core.qtensor import QuantTensor
from glmquant.glm.block import Block, Linear
from glmquant.glm.config import GlmConfig, block_groups, linear_groups
from glmquant.glm.equalization import equalize
from glmquant.quantization.block_pass import quantize_block
from glmquant.quantization.memory import (
    activation_bytes,
    allocate_bytes,
    forward_bytes,
    held_bytes,
    quantize_bytes,
    room_within,
)
from glmquant.quantization.sensitivity import MEASURED_TOKENS, block_sensitivities
from glmquant.quantization.work import forward_work, quantize_work
from glmquant.recipe.plan import resolve_rules
from glmquant.recipe.schema import Recipe
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.tensors import byte_view
from glmquant.streaming.activations import TOKENS_AT_ONCE, Activations, Room, unfilled
from glmquant.streaming.block_stream import Stream

PROBE_BATCHES: Final = 2
DISK_BYTES: Final = 128 << 20


@dataclass(frozen=True)
class StageForecast:
    """A stage's time, the most its process will hold, and the rate they imply where it computes."""

    name: str
    seconds: float
    peak_bytes: int
    gigaflops: float | None = None


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Attributes:
        disk_bytes: written at most at one time, beside the checkpoint: the quantized one, the bundle, activations.
        how: what was measured to know, in sentences.
    """

    stages: tuple[StageForecast, ...]
    disk_bytes: int
    how: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


@dataclass(frozen=True)
class _Probe:
    """Seconds a block took: ``fixed``, and ``a_token``; and a byte's, read, written or packed."""

    fixed: float
    a_token: float
    read: float
    write: float
    pack: float


@torch.inference_mode()
def forecast(
    checkpoint: Checkpoint,
    recipe: Recipe,
    stored_bytes: int,
    memory_limit: int | None = None,
    device: torch.device = CPU,
) -> Forecast:
    """What ``quantize`` (with what it measures to allocate bits) and ``export``, and the samples' float pass where the
    cache is quantized, will take.

    Args:
        stored_bytes: of the quantized linears, as the recipe makes them.
        device: what is to compute.

    Raises:
        RecipeError: a rule that matches nothing.
        OutputError: a memory limit that one block exceeds.
    """
    config, options = checkpoint.config, recipe.calibration
    dtype = dtype_for(options.precision, device)
    plans = resolve_rules(recipe.rules, linear_groups(config))
    samples = options.num_samples if any(plan.needs_hessian for plan in plans.values()) else 0
    tokens, layers = samples * options.seq_len, range(config.num_hidden_layers)
    streams = 2 if recipe.fit.compensate else 1
    held = held_bytes()  # before the measurements below, which a run has no part of
    probe = _measure(checkpoint, recipe, dtype, options.seq_len if samples else 0, device)
    written = stored_bytes + _kept_bytes(config)

    def stage(name: str, seconds: float, needed: int, active: int, work: int) -> StageForecast:
        room_within(memory_limit, needed, held=held)
        whole = held + needed + active
        peak = whole if memory_limit is None else min(whole, memory_limit)
        return StageForecast(name, seconds, peak, work / seconds / 1e9 if work else None)

    active = streams * activation_bytes(config, samples, options.seq_len, dtype)
    read = checkpoint.tensor_bytes * probe.read
    blocks = len(layers) * (probe.fixed + tokens * probe.a_token)
    state = len(layers) * 2 * streams * samples * options.seq_len * config.hidden_size * 4 * probe.write
    needed = quantize_bytes(config, recipe, dtype)
    # Without samples, blocks are read and written while others are worked on; with them, too, but only up to the next
    # block's first change of the activations, which is not counted.
    seconds = blocks + read + written * probe.write + state if samples else max(blocks, read, written * probe.write)
    stages = [stage("quantize", seconds, needed, active, quantize_work(config, recipe, layers, tokens))]
    if recipe.allocate:
        seconds = len(layers) * _allocate_second(config, recipe, device) + read
        stages.insert(0, stage("allocate", seconds, allocate_bytes(config), 0, 0))
    if recipe.export.kv_cache != "float":
        tokens = options.num_samples * options.seq_len
        needed, work = forward_bytes(config, dtype), forward_work(config, len(layers), tokens)
        active = activation_bytes(config, options.num_samples, options.seq_len, dtype)
        stages.insert(0, stage("calibrate", work * _second_an_operation(config, dtype, device), needed, active, work))
    packing = written * (probe.read + probe.pack + probe.write)
    stages.append(stage("export", packing, forward_bytes(config, torch.float32) // 2, 0, 0))
    return Forecast(tuple(stages), 2 * written + 2 * active, _how(probe, tokens, dtype))


def _kept_bytes(config: GlmConfig) -> int:
    """The embedding, which stays float in a quantized checkpoint."""
    return 2 * config.vocab_size * config.hidden_size


def _measure(checkpoint: Checkpoint, recipe: Recipe, dtype: torch.dtype, seq_len: int, device: torch.device) -> _Probe:
    config = checkpoint.config
    names, plans = [group.name for group in block_groups(config, 0)], resolve_rules(recipe.rules, linear_groups(config))
    streams: list[Activations] = []
    tokens = 0
    if seq_len:
        samples = max(1, PROBE_BATCHES * TOKENS_AT_ONCE // seq_len)
        tokens = samples * seq_len
        for _ in range(2 if recipe.fit.compensate else 1):
            streams.append(unfilled(samples, seq_len, config, Room(device=device), dtype))
            for batch in streams[-1].batches():
                streams[-1].hidden.write(batch, _random(batch.stop - batch.start, seq_len, config.hidden_size))
    block = _random_block(config)
    activations, reference = (*streams, None, None)[:2]
    started = time.monotonic()
    if recipe.fit.equalize:
        block = equalize(block, config)
    evened = time.monotonic() - started
    started = time.monotonic()
    done, outcomes = quantize_block(
        block.to(device), names, plans, config, activations, fit=recipe.fit, reference=reference
    )
    seconds = time.monotonic() - started
    fixed = sum(outcome.seconds for outcome in outcomes)
    a_token = max(0.0, seconds - fixed) / tokens if tokens else 0.0
    return _Probe(evened + fixed, a_token, _read_second(checkpoint), _write_second(), _pack_second(done.to(CPU)))


def _allocate_second(config: GlmConfig, recipe: Recipe, device: torch.device) -> float:
    """Of measuring one block's sensitivities."""
    plans = resolve_rules(recipe.rules, linear_groups(config))
    blocks = [block_groups(config, layer) for layer in range(config.num_hidden_layers)]
    groups = max(blocks, key=lambda groups: sum(len(plans[group.name].choices) for group in groups))
    length = min(MEASURED_TOKENS, recipe.calibration.seq_len)
    samples = min(recipe.calibration.num_samples, MEASURED_TOKENS // length)
    activations = unfilled(samples, length, config, Room(device=device))
    for batch in activations.batches():
        activations.hidden.write(batch, _random(batch.stop - batch.start, length, config.hidden_size))
    block = _random_block(config).to(device).floating()
    choices = {group.name: plans[group.name].choices for group in groups}
    started = time.monotonic()
    block_sensitivities(Stream(block, config, activations), groups, choices)
    return time.monotonic() - started


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _random_block(config: GlmConfig) -> Block:
    linears = [
        Linear(_random(group.rows, group.columns).div_(group.columns**0.5).half()) for group in block_groups(config, 0)
    ]
    gain = torch.ones(config.hidden_size)
    block = Block(gain, linears[0], linears[1], gain, linears[2], linears[3])
    if config.sandwich_norms:
        block = replace(block, post_self_attn_layernorm=gain, post_mlp_layernorm=gain)
    return block


def _second_an_operation(config: GlmConfig, dtype: torch.dtype, device: torch.device) -> float:
    weight = _random(config.hidden_size, config.hidden_size).to(device, dtype)
    x = _random(2048, config.hidden_size).to(device, dtype)
    torch.nn.functional.linear(x, weight)[0, 0].item()
    started = time.monotonic()
    torch.nn.functional.linear(x, weight)[0, 0].item()  # a GPU is done when a value of the result is here
    return (time.monotonic() - started) / (2 * x.numel() * config.hidden_size)


def _read_second(checkpoint: Checkpoint) -> float:
    started, done = time.monotonic(), 0
    for part in checkpoint.stored():
        part.read()
        done += part.nbytes
        if done >= DISK_BYTES:
            break
    return (time.monotonic() - started) / max(done, 1)


def _write_second() -> float:
    values = torch.zeros(DISK_BYTES, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as directory:
        started = time.monotonic()
        with DirectWriter(Path(directory) / "probe") as file:
            file.write(byte_view(values))
        return (time.monotonic() - started) / DISK_BYTES


def _pack_second(block: Block) -> float:
    weight = block.gate_up_proj.weight
    if not isinstance(weight, QuantTensor):
        return 0.0
    part = weight.rows(0, min(2048, len(weight.codes_NK)))
    started = time.monotonic()
    packed = pack_blocks(part.codes_NK, part.spec.bits, 128, part.spec.middle)
    return (time.monotonic() - started) / packed.numel()


def _how(probe: _Probe, tokens: int, dtype: torch.dtype) -> tuple[str, ...]:
    block = f"one block of random weights was quantized: {probe.fixed:.2f} s whatever the samples"
    if tokens:
        block += f", and {1e3 * probe.a_token:.3f} ms for each of {tokens:,} tokens, products in {dtype}"
    disk = f"the disk read {1e-9 / max(probe.read, 1e-12):.1f} GB/s and took {1e-9 / max(probe.write, 1e-12):.1f} GB/s"
    return block, disk, "memory follows from the shapes; the candidate's side of `check` is not included"
