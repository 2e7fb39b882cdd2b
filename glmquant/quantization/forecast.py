"""What a recipe will take on this machine, reckoned before it starts.

A block of random weights of the model's own shapes is quantized by the recipe's own rules while a few random samples
pass through it. What its methods took does not depend on the number of samples, what the rest took is in proportion to
it; every other block takes the same. No weight of the checkpoint is read but for the speed of its disk.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.direct_io import DirectWriter
from glmquant.core.machine import peak_memory
from glmquant.core.matmul import dtype_for
from glmquant.core.packing import pack_blocks
from glmquant.core.qtensor import QuantTensor
from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.linear import Linear
from glmquant.glm.parts import Part, PartKind, SparseKind, part_kinds
from glmquant.glm.parts.routing import EXPERT_LINEARS, RoutedExperts, Router
from glmquant.quantization.block_pass import quantize_block
from glmquant.quantization.memory import allocate_bytes, quantize_bytes
from glmquant.quantization.sensitivity import MEASURED_TOKENS, SensitivityMeter
from glmquant.quantization.sharing import gathered_bytes, largest_share, sent_bytes, share_of_samples, shared_seconds
from glmquant.quantization.work import forward_work, quantize_work
from glmquant.recipe.plan import Plan
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.tensors import byte_view
from glmquant.streaming.activations import TOKENS_AT_ONCE, Activations, ActivationStore, sample_batches, unfilled
from glmquant.streaming.memory import activation_bytes, forward_bytes, unlike_layers
from glmquant.streaming.resources import Resources

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
        ranks: how many share the work, each with as many cores as this process; memory is each one's.
        sent_bytes: by each of them while the largest block is quantized; its time is in no stage.
    """

    stages: tuple[StageForecast, ...]
    disk_bytes: int
    how: tuple[str, ...]
    ranks: int = 1
    sent_bytes: int = 0

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
    plan: Plan,
    stored_bytes: int,
    resources: Resources,
    ranks: int = 1,
) -> Forecast:
    """What quantizing (with what it measures to allocate bits) and exporting, and the samples' float pass where the
    KV cache is quantized, will take.

    Args:
        stored_bytes: of the quantized linear layers, as the recipe makes them.
        ranks: how many are to share the work.

    Raises:
        OutputError: a memory limit that one block exceeds.
    """
    held = peak_memory()  # before the measurements below, which a run has no part of
    config, options, device = plan.config, plan.recipe.calibration, resources.device
    dtype = dtype_for(options.precision, device)
    samples = options.num_samples if plan.first_fitted is not None else 0
    share = share_of_samples(samples, options.seq_len, ranks)
    needed = quantize_bytes(plan, dtype) + max(gathered_bytes(plan, layer, ranks) for layer in unlike_layers(config))
    resources.store(needed, held=held)  # refused before minutes are spent on measuring
    probe = _measure(checkpoint, plan, dtype, options.seq_len if samples else 0, device, ranks)
    written = stored_bytes + _kept_bytes(config)
    stages = []
    if plan.needs_ranges:
        stages.append(_calibrate_stage(plan, dtype, device, ranks))
    if plan.recipe.allocate:
        measured = config.num_hidden_layers * largest_share(config.num_hidden_layers, ranks)
        seconds = measured * _allocate_second(plan, device) + checkpoint.tensor_bytes * probe.read
        stages.append(_Stage("allocate", seconds, allocate_bytes(config)))
    stages.append(_quantize_stage(checkpoint, plan, dtype, probe, written, samples, needed, ranks))
    packing = written * (probe.read + probe.pack + probe.write)
    stages.append(_Stage("export", packing, forward_bytes(config, torch.float32) // 2))
    active = max(stage.active for stage in stages)
    layers = unlike_layers(config)
    return Forecast(
        tuple(stage.forecast(held, resources) for stage in stages),
        2 * written + 2 * round(active / share),
        _how(probe, samples * options.seq_len, dtype),
        ranks,
        max(sent_bytes(plan, layer, samples * options.seq_len, dtype, ranks) for layer in layers),
    )


@dataclass(frozen=True)
class _Stage:
    """Seconds, bytes held beside activations, bytes of these, and operations."""

    name: str
    seconds: float
    needed: int
    active: int = 0
    work: int = 0

    def forecast(self, held: int, resources: Resources) -> StageForecast:
        resources.store(self.needed, held=held)
        whole = held + self.needed + self.active
        peak = whole if resources.memory_limit is None else min(whole, resources.memory_limit)
        return StageForecast(self.name, self.seconds, peak, self.work / self.seconds / 1e9 if self.work else None)


def _calibrate_stage(plan: Plan, dtype: torch.dtype, device: torch.device, ranks: int) -> _Stage:
    config, options = plan.config, plan.recipe.calibration
    share = share_of_samples(options.num_samples, options.seq_len, ranks)
    work = forward_work(config, range(config.num_hidden_layers), options.num_samples * options.seq_len)
    active = activation_bytes(config, options.num_samples, options.seq_len, dtype)
    seconds = share * work * _second_an_operation(config, dtype, device)
    return _Stage("calibrate", seconds, forward_bytes(config, dtype), round(share * active), round(share * work))


def _quantize_stage(
    checkpoint: Checkpoint,
    plan: Plan,
    dtype: torch.dtype,
    probe: "_Probe",
    written: int,
    samples: int,
    needed: int,
    ranks: int,
) -> _Stage:
    config, length = plan.config, plan.recipe.calibration.seq_len
    layers, tokens = range(config.num_hidden_layers), samples * length
    share = share_of_samples(samples, length, ranks)
    active = round(share * plan.num_streams * activation_bytes(config, samples, length, dtype))
    read = checkpoint.tensor_bytes * probe.read
    blocks = len(layers) * (probe.fixed + share * tokens * probe.a_token)
    state = len(layers) * 2 * plan.num_streams * tokens * config.hidden_size * 4 * probe.write
    # Without samples, blocks are read and written while others are worked on; with them, too, but only up to the next
    # block's first change of the activations, which is not counted.
    seconds = blocks + read + written * probe.write + state if samples else max(blocks, read, written * probe.write)
    return _Stage("quantize", seconds, needed, active, round(share * quantize_work(plan, layers, tokens)))


def _kept_bytes(config: GlmConfig) -> int:
    """The embedding, which stays float in a quantized checkpoint."""
    return 2 * config.vocab_size * config.hidden_size


def _measure(
    checkpoint: Checkpoint, plan: Plan, dtype: torch.dtype, seq_len: int, device: torch.device, ranks: int
) -> _Probe:
    config, streams = plan.config, list[Activations]()
    if seq_len:
        samples = max(1, PROBE_BATCHES * TOKENS_AT_ONCE // seq_len)
        store = ActivationStore(device=device)
        streams = [_random_activations(config, samples, seq_len, store, dtype) for _ in range(plan.num_streams)]
    layer = unlike_layers(config)[-1]
    block = _random_block(config, layer)
    activations, reference = (*streams, None, None)[:2]
    started = time.monotonic()
    if plan.recipe.fit.equalize:
        block = block.equalized(config)
    equalized = time.monotonic() - started
    started = time.monotonic()
    done, outcomes = quantize_block(block.to(device), layer, plan, activations, reference)
    seconds = time.monotonic() - started
    units = {outcome.name: outcome.seconds for outcome in outcomes}
    a_token = max(0.0, seconds - sum(units.values())) / streams[0].num_tokens if streams else 0.0
    if config.experts is not None and done.mlp.experts is not None:
        units[outcomes[-1].name] *= config.experts.count / done.mlp.experts.count
    fixed = sum(units.values())
    if ranks > 1:
        fixed = shared_seconds(plan, layer, units, _second_an_operation(config, torch.float32, device), ranks)
    return _Probe(equalized + fixed, a_token, _read_second(checkpoint), _write_second(), _pack_second(done.to(CPU)))


def _allocate_second(plan: Plan, device: torch.device) -> float:
    """Of measuring one block's sensitivities: the one with the most choices."""
    config, options = plan.config, plan.recipe.calibration
    layers = range(config.num_hidden_layers)
    layer = max(layers, key=lambda layer: sum(len(plan[group.unit].choices) for group in plan.block_groups(layer)))
    length = min(MEASURED_TOKENS, options.seq_len)
    samples = min(options.num_samples, MEASURED_TOKENS // length)
    activations = _random_activations(config, samples, length, ActivationStore(device=device))
    block = _random_block(config, layer).to(device)
    meter = SensitivityMeter({unit.name: plan[unit.name].choices for unit in plan.units}, equalized=False)
    started = time.monotonic()
    meter.visit(layer, block, [activations])
    return time.monotonic() - started


def _random_activations(
    config: GlmConfig, samples: int, length: int, store: ActivationStore, dtype: torch.dtype = torch.float32
) -> Activations:
    activations = unfilled(sample_batches(samples, length), config, store, dtype)
    for batch in activations.batches:
        activations.hidden.write(batch, _random(len(batch.members), length, config.hidden_size))
    return activations


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _random_block(config: GlmConfig, layer: int) -> Block:
    """Of routed experts as many as one token meets, each of which then meets every token: a token costs what it costs
    in the whole model."""
    parts = []
    for kind in part_kinds(config, layer):
        linears = {group.within(kind.scope): _random_linear(group) for group in kind.groups(config, layer)}
        gains = {name: torch.ones(size) for name, size in kind.gain_sizes(config).items()}
        parts.append(Part(kind, linears, gains, _random_experts(config, layer, kind)))
    return Block(*parts)


def _random_linear(group: LinearGroup) -> Linear:
    return Linear(_random(group.rows, group.columns).div_(group.columns**0.5).half())


def _random_experts(config: GlmConfig, layer: int, kind: PartKind) -> RoutedExperts | None:
    if config.experts is None or not isinstance(kind, SparseKind):
        return None
    count, pair = config.experts.per_token, kind.expert_groups(config, layer, 0)
    weights = dict(zip(EXPERT_LINEARS, map(_random_linear, pair), strict=True))
    router = Router(_random(count, config.hidden_size), torch.zeros(count), count, config.experts.scaling)
    return RoutedExperts(kind.unit(layer), router, count, lambda _, name: weights[name], kind.within_expert)


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
    """Of the first quantized linear layer of the widest kind."""
    weights = [linear.weight for linear in block.linears().values() if isinstance(linear.weight, QuantTensor)]
    if not weights:
        return 0.0
    largest = max(weights, key=lambda weight: weight.codes_NK.numel())
    part = largest.rows(0, min(2048, len(largest.codes_NK)))
    started = time.monotonic()
    packed = pack_blocks(part.codes_NK, part.spec.bits, 128, part.spec.middle)
    return (time.monotonic() - started) / packed.numel()


def _how(probe: _Probe, tokens: int, dtype: torch.dtype) -> tuple[str, ...]:
    block = f"one block of random weights was quantized: {probe.fixed:.2f} s whatever the samples"
    if tokens:
        block += f", and {1e3 * probe.a_token:.3f} ms for each of {tokens:,} tokens, products in {dtype}"
    disk = f"the disk read {1e-9 / max(probe.read, 1e-12):.1f} GB/s and took {1e-9 / max(probe.write, 1e-12):.1f} GB/s"
    return block, disk, "memory follows from the shapes; the candidate's side of the check is not included"
