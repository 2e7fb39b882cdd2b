"""A checkpoint, quantized or to be quantized on the way, written as a bundle."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.data.calibration import KeyValueRange
from glmquant.onnx_export.bundle import WEIGHTS_FILE, OnnxBundle
from glmquant.onnx_export.classifier import export_classifier
from glmquant.onnx_export.feasible import require_exportable
from glmquant.onnx_export.save import export_bundle
from glmquant.progress import Progress
from glmquant.quantization.on_the_fly import QuantizedOnTheFly, quantizes_on_export
from glmquant.recipe.check_options import Limits
from glmquant.recipe.plan import Plan
from glmquant.store.artifact import copy_side_files, manifest_of
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.inventory import inventory
from glmquant.store.manifest import MANIFEST, Manifest, manifest_bytes
from glmquant.store.output import output_directory

log = logging.getLogger("glmquant")


def export_directory(
    checkpoint: Checkpoint, plan: Plan, key_values: Sequence[KeyValueRange] | None, out: Path, progress: Progress
) -> OnnxBundle:
    """Writes the bundle to ``out``; see :func:`glmquant.api.export`."""
    options = plan.recipe.export
    on_the_fly = QuantizedOnTheFly(checkpoint, plan) if quantizes_on_export(checkpoint, plan) else None
    if on_the_fly is not None and checkpoint.is_quantized:
        log.info("the rows that the publisher quantized are quantized anew by the recipe's rules")
    source, tokenizer = on_the_fly or checkpoint, checkpoint.tokenizer

    _tell_of_other_rules(checkpoint, plan)
    require_exportable(checkpoint.config, options, _specs(checkpoint, plan))

    def tell(done: int, total: int) -> None:
        progress("exporting", done, total)

    with output_directory(out) as partial:
        copy_side_files(checkpoint.path, partial)  # first: generation settings may be written anew
        if checkpoint.config.num_labels:
            bundle = export_classifier(source, options, partial, tokenizer=tokenizer, progress=tell)
        else:
            bundle = export_bundle(source, options, partial, key_values=key_values, tokenizer=tokenizer, progress=tell)
        manifest = _as_it_is(checkpoint) if on_the_fly is None else on_the_fly.manifest()
        files = inventory(partial, {WEIGHTS_FILE: bundle.weights_sha256}, but=(MANIFEST,))
        manifest = replace(_judged_by(manifest, plan.recipe.check.limits), files=files)
        (partial / MANIFEST).write_bytes(manifest_bytes(manifest))
    return replace(bundle, path=out)


def _specs(checkpoint: Checkpoint, plan: Plan) -> Mapping[str, Sequence[QuantSpec]]:
    """Those of the linear groups, as far as plan and manifest know them: a stranger's GPTQ is known as it is read."""
    if checkpoint.quantization != "gptq":
        return plan.possible_specs
    records = () if checkpoint.manifest is None else checkpoint.manifest.groups
    return {record.name: (record.spec,) for record in records if record.spec is not None}


def _tell_of_other_rules(checkpoint: Checkpoint, plan: Plan) -> None:
    """What is quantized stays as it is, whatever the recipe's rules say; silent where they say the same."""
    if checkpoint.quantization != "gptq" or not any(rule.spec is not None for rule in plan.recipe.rules):
        return
    if checkpoint.manifest is None:
        log.warning("the checkpoint is quantized already: the recipe's rules are not applied")
        return
    stored = _specs(checkpoint, plan)
    for name, wanted in plan.possible_specs.items():
        if not set(stored.get(name, (None,))) <= set(wanted or (None,)):
            log.warning(
                "the checkpoint is quantized already: the recipe's rules are not applied; %s is %s, and they say %s",
                name,
                _in_words(stored.get(name, ())),
                _in_words(wanted),
            )
            return


def _in_words(specs: Sequence[QuantSpec]) -> str:
    each = (f"{spec.bits} bits in {_groups(spec)}{'' if spec.symmetric else ', asymmetric'}" for spec in specs)
    return " or ".join(each) or "float"


def _groups(spec: QuantSpec) -> str:
    return "whole rows" if spec.group_size == WHOLE_ROW else f"groups of {spec.group_size}"


def _as_it_is(checkpoint: Checkpoint) -> Manifest:
    """A float checkpoint that glmquant wrote, a trained classifier's say, is itself what the bundle was made from; so
    is what glmquant did not write, of whose quantization nothing is known."""
    manifest = checkpoint.manifest
    if manifest is None:
        return manifest_of(checkpoint, recipe={}, calibration=None, groups=(), limits=Limits())
    if checkpoint.is_quantized:
        return manifest
    return manifest_of(
        checkpoint,
        recipe=manifest.recipe,
        calibration=None,
        groups=manifest.groups,
        limits=manifest.limits,
        arithmetic=manifest.arithmetic,
    )


def _judged_by(manifest: Manifest, limits: Limits) -> Manifest:
    """With the recipe's limits, where it has any."""
    return manifest if limits == Limits() else replace(manifest, limits=limits)
