"""Quantising a checkpoint block by block into a directory from which a killed run goes on."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from glmquant.data.calibration import CalibrationSet
from glmquant.errors import CalibrationError, QuantizationError
from glmquant.glm.block import Block, rms_norm
from glmquant.glm.config import block_groups, head_group, linear_groups
from glmquant.pipeline.activations import Activations, embed
from glmquant.pipeline.block_pass import GroupOutcome, quantize_block, quantize_linear
from glmquant.progress import Progress, silent
from glmquant.recipe.plan import GroupPlan, resolve_rules
from glmquant.recipe.schema import Recipe
from glmquant.store.artifact import ArtifactWriter
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.manifest import GroupRecord

STATE = "activations.state"


@torch.inference_mode()
def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    samples: CalibrationSet | None,
    directory: Path,
    progress: Progress = silent,
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
    run = _Run(checkpoint, plans, writer, directory / STATE)
    activations = run.blocks(_samples_needed(plans, samples), progress)
    run.head(activations)
    writer.finish(
        checkpoint,
        recipe=recipe.identity(),
        calibration=samples.sha256 if activations is not None and samples is not None else None,
    )
    (directory / STATE).unlink(missing_ok=True)


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
    """The loop over blocks. ``state`` holds the activations before the next block, so that a killed run can go on."""

    def __init__(
        self, checkpoint: Checkpoint, plans: dict[str, GroupPlan], writer: ArtifactWriter, state: Path
    ) -> None:
        self._checkpoint, self._plans, self._writer, self._state = checkpoint, plans, writer, state
        self._config = checkpoint.config

    def blocks(self, samples: CalibrationSet | None, progress: Progress) -> Activations | None:
        layers = self._config.num_hidden_layers
        activations, first = self._start(samples)
        for layer in range(layers):
            progress("quantizing", layer, layers)
            if layer < first or (activations is None and self._writer.has_block(layer)):
                continue
            names = [group.name for group in block_groups(self._config, layer)]
            block, outcomes = quantize_block(self._float_block(layer), names, self._plans, self._config, activations)
            self._writer.write_block(layer, block, [_record(outcome) for outcome in outcomes])
            if activations is not None:
                self._save(activations, layer + 1)
        progress("quantizing", layers, layers)
        return activations

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
        name, inputs = head_group(self._config).name, None
        if activations is not None:
            hidden_SLD, eps = activations.hidden_SLD, self._config.rms_norm_eps
            inputs = (rms_norm(hidden_SLD[batch], norm_D, eps) for batch in activations.batches())
        lm_head, outcome = quantize_linear(name, self._checkpoint.lm_head(), self._plans[name], inputs)
        self._writer.write_head(norm_D, lm_head, [_record(outcome)])

    def _start(self, samples: CalibrationSet | None) -> tuple[Activations | None, int]:
        if samples is None:
            return None, 0
        activations = embed(samples.tokens_SL, self._checkpoint.embedding(), self._config)
        if not self._state.exists():
            return activations, 0
        saved = load_file(self._state)
        return replace(activations, hidden_SLD=saved["hidden"]), int(saved["layer"])

    def _save(self, activations: Activations, layer: int) -> None:
        unfinished = self._state.with_suffix(".unfinished")
        save_file({"hidden": activations.hidden_SLD, "layer": torch.tensor(layer)}, unfinished)
        os.replace(unfinished, self._state)


def _record(outcome: GroupOutcome) -> GroupRecord:
    plan = outcome.plan
    kind = None if plan.method is None else plan.method.kind
    return GroupRecord(outcome.name, plan.spec, kind, outcome.weight_error, outcome.output_error)
