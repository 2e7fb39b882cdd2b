"""Quantising a checkpoint block by block into a directory from which a killed run goes on."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from glmquant.core.stats import HessianAccumulator
from glmquant.data.calibration import CalibrationSet
from glmquant.errors import CalibrationError, QuantizationError
from glmquant.glm.block import Block, rms_norm
from glmquant.glm.config import block_groups, head_group, linear_groups
from glmquant.pipeline.activations import Activations, Room, embed
from glmquant.pipeline.ahead import blocks_ahead
from glmquant.pipeline.block_pass import GroupOutcome, quantize_block, quantize_linear
from glmquant.pipeline.state import SavedStates
from glmquant.progress import Progress, silent
from glmquant.recipe.plan import GroupPlan, resolve_rules
from glmquant.recipe.schema import Recipe
from glmquant.store.artifact import ArtifactWriter
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.manifest import GroupRecord


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
) -> None:
    """Writes ``checkpoint``, quantised by the recipe's rules, into the existing ``directory``.

    Every linear is fitted to the inputs it will meet: the samples pass through each block once, and on from its
    quantised form. What an earlier, unfinished run with the same inputs left in ``directory`` is taken up.

    Raises:
        RecipeError: a rule that matches nothing.
        CalibrationError: a method that needs samples, and there are none.
        QuantizationError: a linear that its method cannot quantise, or a checkpoint in GPTQ format.
    """
    if checkpoint.quantization == "gptq":
        raise QuantizationError(
            "the checkpoint is quantised already, in GPTQ format",
            where=checkpoint.path,
            expected="a float checkpoint, or one with its publisher's own int4 or int8 rows",
            fix="start from the original; to export this one as it is, use `glmquant export`",
        )
    config = checkpoint.config
    plans = resolve_rules(recipe.rules, linear_groups(config))
    writer = ArtifactWriter(
        directory, config, {name: plan.spec for name, plan in plans.items()}, gate_up=recipe.store.layout
    )
    if not writer.has_embedding:
        writer.write_embedding(checkpoint.embedding())
    needed = _samples_needed(plans, samples)
    run = _Run(checkpoint, plans, writer, SavedStates(directory))
    activations = None if needed is None else run.start(needed, room or Room(), dtype)
    run.blocks(activations, progress)
    run.head(activations)
    writer.finish(
        checkpoint,
        recipe=recipe.identity(),
        calibration=samples.sha256 if activations is not None and samples is not None else None,
    )
    run.states.clear()


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
    """The loop over blocks. ``states`` keeps the activations before the next block, so that a killed run can go on."""

    def __init__(
        self, checkpoint: Checkpoint, plans: dict[str, GroupPlan], writer: ArtifactWriter, states: SavedStates
    ) -> None:
        self._checkpoint, self._plans, self._writer, self.states = checkpoint, plans, writer, states
        self._config = checkpoint.config
        self._first = 0

    def start(self, samples: CalibrationSet, room: Room, dtype: torch.dtype) -> Activations:
        """The samples before the first block, or before the one that an unfinished run would have come to."""
        count, length = samples.tokens_SL.shape
        found = self.states.load((count, length), self._config, room, dtype)
        if found is not None:
            self._first, activations = found
            return activations
        return embed(samples.tokens_SL, self._checkpoint.embedding(), self._config, room, dtype)

    def blocks(self, activations: Activations | None, progress: Progress) -> None:
        layers = self._config.num_hidden_layers
        if activations is None:
            todo = [layer for layer in range(layers) if not self._writer.has_block(layer)]
        else:
            todo = list(range(self._first, layers))
        with ThreadPoolExecutor(1) as background:
            written: Future[None] | None = None
            for layer, block in zip(todo, blocks_ahead(self._float_block, todo), strict=True):
                progress("quantizing", layer, layers)
                names = [group.name for group in block_groups(self._config, layer)]
                done, outcomes = quantize_block(block, names, self._plans, self._config, activations)
                if written is not None:
                    written.result()
                written = background.submit(self._write_block, layer, done, outcomes)
                if activations is not None:
                    written.result()
                    self.states.save(activations, layer + 1)
            if written is not None:
                written.result()
        progress("quantizing", layers, layers)

    @torch.inference_mode()  # which is a thread's own
    def _write_block(self, layer: int, block: Block, outcomes: Sequence[GroupOutcome]) -> None:
        self._writer.write_block(layer, block, [_record(outcome) for outcome in outcomes])

    def _float_block(self, layer: int) -> Block:
        """A block as its publisher computes with it: rows the publisher quantised are expanded."""
        block = self._checkpoint.block(layer)
        return block.floating(getattr(torch, self._config.float_dtype)) if self._checkpoint.is_quantized else block

    def head(self, activations: Activations | None) -> None:
        if self._writer.has_head:
            return
        norm_D = self._checkpoint.final_norm()
        if self._config.num_labels:
            self._writer.write_head(norm_D, self._checkpoint.classification_head())
            return
        name = head_group(self._config).name
        plan, dtype = self._plans[name], torch.float32
        inputs = None
        if activations is not None and plan.needs_hessian:
            inputs, dtype = HessianAccumulator(self._config.hidden_size), activations.dtype
            for batch in activations.batches():
                inputs.add(rms_norm(activations.hidden.read(batch), norm_D, self._config.rms_norm_eps).to(dtype))
        lm_head, outcome = quantize_linear(name, self._checkpoint.lm_head(), plan, inputs, dtype)
        self._writer.write_head(norm_D, lm_head, [_record(outcome)])


def _record(outcome: GroupOutcome) -> GroupRecord:
    plan = outcome.plan
    kind = None if plan.method is None else plan.method.kind
    return GroupRecord(outcome.name, plan.spec, kind, outcome.weight_error, outcome.output_error)
