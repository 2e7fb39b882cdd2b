"""Quantizing a checkpoint block by block into a directory from which a killed run resumes."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from glmquant.core.arithmetic import arithmetic
from glmquant.core.device import CPU
from glmquant.core.pages import trim
from glmquant.core.parallel import lone_workers
from glmquant.core.ranks import ALONE, Ranks
from glmquant.data.calibration import CalibrationSet
from glmquant.errors import CalibrationError, CheckpointError, QuantizationError
from glmquant.glm.block import Block
from glmquant.glm.groups import head_group
from glmquant.glm.rotary import largest_normed, rms_norm
from glmquant.progress import Progress, silent
from glmquant.quantization.allocate import FOUND, allocated
from glmquant.quantization.block_pass import quantize_block
from glmquant.quantization.error_propagation import LinearFit, Seen
from glmquant.quantization.expert_pass import SHARED_TOKENS
from glmquant.quantization.linear_pass import GroupOutcome, quantize_linear
from glmquant.quantization.prepare import float_block, float_head
from glmquant.recipe.plan import Plan
from glmquant.store.artifact import ArtifactWriter
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.manifest import Manifest
from glmquant.streaming.activations import (
    Activations,
    ActivationStore,
    Batch,
    embed,
    leaf_starts,
    own_batches,
    unfilled,
)
from glmquant.streaming.forward import walk
from glmquant.streaming.state import SavedStates

log = logging.getLogger("glmquant")


@torch.inference_mode()
def quantize(
    checkpoint: Checkpoint,
    plan: Plan,
    samples: CalibrationSet | None,
    directory: Path,
    progress: Progress = silent,
    *,
    store: ActivationStore | None = None,
    dtype: torch.dtype = torch.float32,
    ranks: Ranks = ALONE,
) -> Sequence[int]:
    """Writes ``checkpoint``, quantized by the plan, into the existing ``directory``.

    Every linear layer is fitted to the inputs it will meet: the samples pass through each block once, and on from its
    quantized form. What an earlier, unfinished run with the same inputs left in ``directory`` is taken up.

    Args:
        store: where activations may lie, and the device that computes.
        dtype: of the operands of matrix products.
        ranks: who shares the samples and the rows of layers that are fitted to them. The first one writes all but the
            activations to resume from; all of them see one ``directory``.

    Returns:
        the blocks that were quantized now, not by an earlier run.

    Raises:
        CalibrationError: a method that needs samples, and there are none.
        CheckpointError: activations are not finite.
        QuantizationError: a linear layer that its method cannot quantize, or a checkpoint in GPTQ format.
    """
    if checkpoint.quantization == "gptq":
        raise QuantizationError(
            "the checkpoint is quantized already, in GPTQ format",
            where=checkpoint.path,
            expected="a float checkpoint, or one with its publisher's own int4 or int8 rows",
            hint="start from the original; this one can be exported as it is",
        )
    store = store or ActivationStore()
    plan = allocated(checkpoint, plan, samples, directory, progress, device=store.device, ranks=ranks)
    writer = ArtifactWriter(directory, checkpoint.config, plan.specs, layout=plan.recipe.store.layout)
    needed = _samples_needed(plan, samples)
    run = _Run(checkpoint, plan, writer, SavedStates(directory), store, ranks)
    streams = run.start(needed, dtype, progress)
    done = run.blocks(streams, progress)
    run.head(streams)
    ranks.barrier()
    if ranks.is_first:
        _finish(checkpoint, plan, needed, directory, writer, arithmetic(dtype, store.device))
    return done


def _finish(
    checkpoint: Checkpoint,
    plan: Plan,
    needed: CalibrationSet | None,
    directory: Path,
    writer: ArtifactWriter,
    computed_in: Mapping[str, str],
) -> None:
    recipe = plan.recipe
    manifest = writer.finish(
        checkpoint,
        recipe=recipe.identity(),
        calibration=needed,
        limits=recipe.check.limits,
        arithmetic=computed_in,
    )
    _tell_of_experts(manifest, checkpoint)
    SavedStates(directory).clear()
    (directory / FOUND).unlink(missing_ok=True)


def _tell_of_experts(manifest: Manifest, checkpoint: Checkpoint) -> None:
    few = [record for record in manifest.groups if record.few_tokens]
    if few and checkpoint.config.experts is not None:
        log.warning(
            "%d of %d routed experts met fewer than %d calibration tokens, in %d layers; glmquant.json names them, and "
            "more text, or other text, would reach more of them",
            sum(len(record.few_tokens) for record in few),
            checkpoint.config.experts.count * sum(record.name.endswith(".experts") for record in manifest.groups),
            SHARED_TOKENS,
            len(few),
        )


class _Replay:
    """A visitor that lets the samples pass through finished blocks, and quantizes damaged ones again."""

    def __init__(
        self, plan: Plan, writer: ArtifactWriter, device: torch.device, damaged: Sequence[int], ranks: Ranks
    ) -> None:
        self._plan, self._writer, self._device = plan, writer, device
        self._damaged, self._ranks = damaged, ranks

    def visit(self, layer: int, block: Block, streams: Sequence[Activations]) -> None:
        activations, reference = (*streams, None, None)[:2]
        is_damaged = layer in self._damaged
        finished = None if is_damaged else self._writer.read_block(layer).to(self._device)
        done, outcomes = quantize_block(block, layer, self._plan, activations, reference, self._ranks, finished)
        if is_damaged and self._ranks.is_first:
            self._writer.rewrite_block(layer, done.to(CPU), [outcome.record for outcome in outcomes])


def _samples_needed(plan: Plan, samples: CalibrationSet | None) -> CalibrationSet | None:
    if plan.first_fitted is None:
        return None
    if samples is None:
        raise CalibrationError(
            "the recipe needs calibration samples",
            where=f"the rule for {plan.first_fitted}",
            hint="`calibrate` first, and give what it gives as `calibration`",
        )
    return samples


class _Run:
    """A visitor that quantizes each block. ``states`` keeps the activations before the next one, so that a killed run
    can resume.

    The samples are one stream, as quantized blocks made them; a second one, as float blocks did, is the reference where
    errors are propagated.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: Plan,
        writer: ArtifactWriter,
        states: SavedStates,
        store: ActivationStore,
        ranks: Ranks,
    ) -> None:
        self._checkpoint, self._plan, self._writer, self._ranks = checkpoint, plan, writer, ranks
        self._states, self._store, self._config = states, store, checkpoint.config
        self._first, self._keeps_states = 0, False
        self._background: ThreadPoolExecutor | None = None
        self._written: Future[int] | None = None

    def start(self, samples: CalibrationSet | None, dtype: torch.dtype, progress: Progress) -> list[Activations]:
        """The samples before the first block, or before the one that an unfinished run would have come to; this rank's,
        and none where none are needed.

        Of what that left, blocks that are damaged are quantized again, and activations computed again: the samples pass
        through the blocks before as these were quantized then.

        Raises:
            CheckpointError: a block comes out differently now.
        """
        count, length = (0, 1) if samples is None else samples.tokens_SL.shape
        found, damaged, is_done = self._ranks.from_first(lambda: self._left(leaf_starts(count, length)))
        if samples is None or is_done:
            return []
        if found is None:
            return self._embedded(samples, dtype)
        self._first = found
        if damaged:
            self._replay(self._embedded(samples, dtype), max(damaged) + 1, damaged, progress)
        batches = own_batches(count, length, self._ranks)
        streams = [unfilled(batches, self._config, self._store, dtype) for _ in range(self._plan.num_streams)]
        if self._loaded(streams, found):
            return streams
        del streams
        streams = self._embedded(samples, dtype)
        self._replay(streams, found, (), progress)
        self._states.save(streams, found)
        return streams

    def _left(self, leaves: Sequence[int]) -> tuple[int | None, Sequence[int], bool]:
        """What an unfinished run left: the block that it would have come to, those before it that are damaged, and
        whether all are there."""
        found = self._states.furthest(leaves) if leaves else None
        damaged = self._writer.drop_damaged(found or 0)
        if not self._writer.has_embedding:
            self._writer.write_embedding(self._checkpoint.embedding())
        return found, damaged, self._writer.has_all

    def _loaded(self, streams: Sequence[Activations], layer: int) -> bool:
        """Whether every rank's saved activations are what was saved."""
        damage = None
        try:
            self._states.load(streams, layer)
        except CheckpointError as error:
            damage = error.what
        told = [each for each in self._ranks.gather(damage) if each is not None]
        if told and self._ranks.is_first:
            log.warning("%s: they are computed again", told[0])
        return not told

    def _embedded(self, samples: CalibrationSet, dtype: torch.dtype) -> list[Activations]:
        embedding_VD, streams = self._checkpoint.embedding(), range(self._plan.num_streams)
        return [embed(samples.tokens_SL, embedding_VD, self._config, self._store, dtype, self._ranks) for _ in streams]

    def _replay(self, streams: Sequence[Activations], stop: int, damaged: Sequence[int], progress: Progress) -> None:
        """Moves the samples through the first blocks up to ``stop``, of which the ``damaged`` are written again."""
        walk(
            lambda layer: float_block(self._checkpoint, layer, self._plan),
            range(stop),
            streams,
            _Replay(self._plan, self._writer, self._store.device, damaged, self._ranks),
            device=self._store.device,
            progress=progress,
            stage="finished blocks again",
            total=stop,
        )

    def blocks(self, streams: Sequence[Activations], progress: Progress) -> Sequence[int]:
        layers = self._config.num_hidden_layers
        todo = [k for k in range(self._first, layers) if streams or not self._writer.has_block(k)]
        if not (streams or self._ranks.is_first):
            return todo
        self._keeps_states = bool(streams)
        with lone_workers("writer") as self._background:
            walk(
                lambda layer: float_block(self._checkpoint, layer, self._plan),
                todo,
                streams,
                self,
                device=self._store.device,
                progress=progress,
                stage="quantizing",
                total=layers,
            )
            self._wait()
        return todo

    def visit(self, layer: int, block: Block, streams: Sequence[Activations]) -> None:
        activations, reference = (*streams, None, None)[:2]
        done, outcomes = quantize_block(block, layer, self._plan, activations, reference, self._ranks)
        del block
        done = done.to(CPU)
        self._wait()
        assert self._background is not None
        self._written = self._background.submit(self._keep, layer, [done], outcomes, streams)
        for stream in streams:
            stream.hidden.keep_until(self._written)

    def _wait(self) -> None:
        """What is being written is held until the next block is done, and what other ranks may have to resume from."""
        if self._written is None:
            return
        layer = self._written.result()
        self._written = None
        if self._keeps_states:
            self._ranks.barrier()
            if self._ranks.is_first:
                self._states.drop_before(layer)

    @torch.inference_mode()  # which is a thread's own
    def _keep(
        self, layer: int, unwritten: list[Block], outcomes: Sequence[GroupOutcome], streams: Sequence[Activations]
    ) -> int:
        """Puts a finished block on the disk, lets go of it, and keeps what the next one starts from; its number."""
        if self._ranks.is_first:
            self._writer.write_block(layer, unwritten.pop(), [outcome.record for outcome in outcomes])
        unwritten.clear()
        trim()  # its codes lay between arrays that ended before
        if streams:
            self._states.save(streams, layer + 1)
            if self._ranks.count == 1:
                self._states.drop_before(layer + 1)
        return layer + 1

    def head(self, streams: Sequence[Activations]) -> None:
        if self._ranks.from_first(lambda: self._writer.has_head):
            return
        if not (streams or self._ranks.is_first):
            return
        if self._config.num_labels:
            if self._ranks.is_first:
                self._writer.write_head(self._checkpoint.final_norm(), self._checkpoint.classification_head())
            return
        name, dtype = head_group(self._config).name, torch.float32
        plan = self._plan[name]
        norm_D, linear = float_head(self._checkpoint, self._plan)
        norm_D, linear = norm_D.to(self._store.device), linear.to(self._store.device)
        seen = None
        if streams and plan.needs_hessian:
            strength, dtype = self._plan.recipe.fit.error_propagation, streams[0].dtype
            seen = LinearFit(linear, strength, by_inputs=True, ranks=self._ranks)
            seen.gather(streams[0], lambda batch: self._before_head(streams, batch, norm_D), largest_normed(norm_D))
        lm_head, outcome = quantize_linear(name, linear, plan, seen, dtype, self._ranks)
        if self._ranks.is_first:
            self._writer.write_head(norm_D.to(CPU), lm_head.to(CPU), [outcome.record])

    def _before_head(self, streams: Sequence[Activations], batch: Batch, norm_D: Tensor) -> Seen:
        x, *wanted = (self._normed(stream, batch, norm_D) for stream in streams)
        return Seen(x, wanted[0] - x if wanted else None)

    def _normed(self, stream: Activations, batch: Batch, norm_D: Tensor) -> Tensor:
        return rms_norm(stream.hidden.read(batch), norm_D, self._config.rms_norm_eps).to(stream.dtype)
