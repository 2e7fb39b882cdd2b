"""Quantizing a checkpoint block by block into a directory from which a killed run goes on."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import torch

from glmquant.core.device import CPU
from glmquant.core.parallel import lone_worker
from glmquant.data.calibration import CalibrationSet
from glmquant.errors import CalibrationError, QuantizationError
from glmquant.glm.block import Block, rms_norm
from glmquant.glm.config import block_groups, head_group, linear_groups
from glmquant.progress import Progress, silent
from glmquant.quantization.allocate import FOUND, allocated
from glmquant.quantization.block_pass import GroupOutcome, quantize_block, quantize_linear
from glmquant.quantization.error_propagation import LinearFit
from glmquant.quantization.prepare import float_block, float_head
from glmquant.recipe.plan import GroupPlan, resolve_rules
from glmquant.recipe.schema import FitOptions, Recipe
from glmquant.store.artifact import ArtifactWriter
from glmquant.store.checkpoint import Checkpoint
from glmquant.streaming.activations import Activations, Room, embed
from glmquant.streaming.prefetch import blocks_ahead
from glmquant.streaming.state import SavedStates


@torch.inference_mode()
def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    samples: CalibrationSet | None,
    directory: Path,
    progress: Progress = silent,
    *,
    room: Room | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sequence[int]:
    """Writes ``checkpoint``, quantized by the recipe's rules, into the existing ``directory``.

    Every linear is fitted to the inputs it will meet: the samples pass through each block once, and on from its
    quantized form. What an earlier, unfinished run with the same inputs left in ``directory`` is taken up.

    Returns:
        the blocks that were quantized now, not by an earlier run.

    Raises:
        RecipeError: a rule that matches nothing.
        CalibrationError: a method that needs samples, and there are none.
        QuantizationError: a linear that its method cannot quantize, or a checkpoint in GPTQ format.
    """
    if checkpoint.quantization == "gptq":
        raise QuantizationError(
            "the checkpoint is quantized already, in GPTQ format",
            where=checkpoint.path,
            expected="a float checkpoint, or one with its publisher's own int4 or int8 rows",
            fix="start from the original; to export this one as it is, use `glmquant export`",
        )
    config = checkpoint.config
    room = room or Room()
    recipe = allocated(checkpoint, recipe, samples, directory, progress, device=room.device)
    plans = resolve_rules(recipe.rules, linear_groups(config))
    writer = ArtifactWriter(
        directory, config, {name: plan.spec for name, plan in plans.items()}, gate_up=recipe.store.layout
    )
    if not writer.has_embedding:
        writer.write_embedding(checkpoint.embedding())
    needed = _samples_needed(plans, samples)
    run = _Run(checkpoint, plans, recipe.fit, writer, SavedStates(directory), room)
    streams = [] if needed is None else run.start(needed, dtype)
    done = run.blocks(streams, progress)
    run.head(streams)
    writer.finish(
        checkpoint,
        recipe=recipe.identity(),
        calibration=None if needed is None else needed.sha256,
    )
    run.states.clear()
    (directory / FOUND).unlink(missing_ok=True)
    return done


def _samples_needed(plans: dict[str, GroupPlan], samples: CalibrationSet | None) -> CalibrationSet | None:
    if not any(plan.needs_hessian for plan in plans.values()):
        return None
    if samples is None:
        needing = next(name for name, plan in plans.items() if plan.needs_hessian)
        raise CalibrationError(
            "the recipe needs calibration samples",
            where=f"the rule for {needing}",
            fix="run `glmquant calibrate` first and give its output with --calibration",
        )
    return samples


class _Run:
    """The loop over blocks. ``states`` keeps the activations before the next block, so that a killed run can go on.

    The samples are one stream, as quantized blocks made them; a second one, as float blocks did, is the reference where
    ``fit.error_propagation`` needs it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        plans: dict[str, GroupPlan],
        fit: FitOptions,
        writer: ArtifactWriter,
        states: SavedStates,
        room: Room,
    ) -> None:
        self._checkpoint, self._plans, self._fit = checkpoint, plans, fit
        self._writer, self.states, self._room = writer, states, room
        self._config = checkpoint.config
        self._first = 0

    def start(self, samples: CalibrationSet, dtype: torch.dtype) -> list[Activations]:
        """The samples before the first block, or before the one that an unfinished run would have come to."""
        streams, (count, length) = 2 if self._fit.error_propagation else 1, samples.tokens_SL.shape
        found = self.states.load(streams, (count, length), self._config, self._room, dtype)
        if found is not None:
            self._first = found[0]
            return found[1]
        embedding_VD = self._checkpoint.embedding()
        return [embed(samples.tokens_SL, embedding_VD, self._config, self._room, dtype) for _ in range(streams)]

    def blocks(self, streams: Sequence[Activations], progress: Progress) -> Sequence[int]:
        layers = self._config.num_hidden_layers
        activations, reference = (*streams, None, None)[:2]
        if activations is None:
            todo = [layer for layer in range(layers) if not self._writer.has_block(layer)]
        else:
            todo = list(range(self._first, layers))
        with lone_worker("writer") as background:
            written: Future[None] | None = None
            for layer, block in blocks_ahead(self._float_block, todo):
                progress("quantizing", layer, layers)
                names = [group.name for group in block_groups(self._config, layer)]
                done, outcomes = quantize_block(
                    block.to(self._room.device),
                    names,
                    self._plans,
                    self._config,
                    activations,
                    fit=self._fit,
                    reference=reference,
                )
                del block
                done = done.to(CPU)
                if written is not None:
                    written.result()
                written = background.submit(self._keep, layer, done, outcomes, streams)
                del done, outcomes  # so that they go once they are written
                for stream in streams:
                    stream.hidden.keep_until(written)
            if written is not None:
                written.result()
        progress("quantizing", layers, layers)
        return todo

    @torch.inference_mode()  # which is a thread's own
    def _keep(self, layer: int, block: Block, outcomes: Sequence[GroupOutcome], streams: Sequence[Activations]) -> None:
        """Puts a finished block on the disk, and then what the next one starts from."""
        self._writer.write_block(layer, block, [outcome.record for outcome in outcomes])
        if streams:
            self.states.save(streams, layer + 1)

    def _float_block(self, layer: int) -> Block:
        return float_block(self._checkpoint, layer, self._plans, self._fit)

    def head(self, streams: Sequence[Activations]) -> None:
        if self._writer.has_head:
            return
        if self._config.num_labels:
            self._writer.write_head(self._checkpoint.final_norm(), self._checkpoint.classification_head())
            return
        name, dtype = head_group(self._config).name, torch.float32
        plan = self._plans[name]
        norm_D, linear = float_head(self._checkpoint, plan, self._fit)
        norm_D, linear = norm_D.to(self._room.device), linear.to(self._room.device)
        seen = None
        if streams and plan.needs_hessian:
            seen, dtype = LinearFit(linear, self._fit.error_propagation, by_inputs=True), streams[0].dtype
            for batch in streams[0].batches():
                x, *wanted = (self._normed(stream, batch, norm_D) for stream in streams)
                seen.add(x, wanted[0] - x if wanted else None)
        lm_head, outcome = quantize_linear(name, linear, plan, seen, dtype)
        self._writer.write_head(norm_D.to(CPU), lm_head.to(CPU), [outcome.record])

    def _normed(self, stream: Activations, batch: slice, norm_D: torch.Tensor) -> torch.Tensor:
        return rms_norm(stream.hidden.read(batch), norm_D, self._config.rms_norm_eps).to(stream.dtype)
