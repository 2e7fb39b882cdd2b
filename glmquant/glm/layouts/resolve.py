"""From a published ``config.json`` to the canonical model: one resolver per ``model_type``."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from glmquant.glm.config import Family
from glmquant.glm.layouts import chatglm, hf_glm, vision
from glmquant.glm.layouts.fields import Fields
from glmquant.glm.layouts.labels import HEAD_BIAS, HEAD_WEIGHT, SCORE_WEIGHT, read_labels
from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.layouts.lineage import Traces
from glmquant.glm.names import HEAD

Resolver = Callable[[Fields, Family | None, Collection[str] | None, Traces], Layout]

RESOLVERS: Final[dict[str, Resolver]] = {
    "chatglm": chatglm.resolve,
    "glm": hf_glm.resolve,
    "glm4": hf_glm.resolve,
    "glm4_moe": hf_glm.resolve,
    "glm4_moe_lite": hf_glm.resolve,
    **dict.fromkeys(("glm4v", "glm46v", "glm_ocr"), vision.resolve),
}


def resolve_layout(
    config: dict[str, Any],
    *,
    config_path: Path,
    family: Family | None = None,
    tensor_names: Collection[str] | None = None,
    traces: Traces | None = None,
) -> Layout:
    """What a published checkpoint holds and where.

    Args:
        config: the parsed ``config.json``.
        config_path: what errors name.
        family: lineage, for a native checkpoint whose files do not tell it.
        tensor_names: the published tensors, where known: tells what to ignore, and a classifier from a language model.
        traces: what files beside ``config.json`` tell of the lineage.

    Raises:
        CheckpointError: a ``model_type`` or variant that is not supported, or a field that is missing or out of range.
    """
    fields = Fields(config, config_path)
    model_type = fields.raw("model_type")
    resolver = RESOLVERS.get(model_type) if isinstance(model_type, str) else None
    if resolver is None:
        hint = "glmquant reads GLM-family checkpoints only; give one of those"
        raise fields.error("model_type", "one of " + ", ".join(RESOLVERS), hint)
    layout = resolver(fields, family, tensor_names, traces or Traces())
    labels = read_labels(fields, tensor_names)
    return as_classifier(layout, labels, tensor_names) if labels else layout


def as_classifier(layout: Layout, labels: tuple[str, ...], tensor_names: Collection[str] | None) -> Layout:
    """The layout of a checkpoint with a classification head; its language-model head, if any, is not read."""
    names = tensor_names or ()
    hidden = layout.config.hidden_size
    is_score = HEAD_WEIGHT not in names and SCORE_WEIGHT in names
    sources = {name: source for name, source in layout.sources.items() if name != HEAD}
    sources[HEAD_WEIGHT] = TensorSource(SCORE_WEIGHT if is_score else HEAD_WEIGHT, (len(labels), hidden))
    if HEAD_BIAS in names:
        sources[HEAD_BIAS] = TensorSource(HEAD_BIAS, (len(labels),))
    ignored = layout.ignored | {HEAD, layout.sources[HEAD].name}
    return Layout(replace(layout.config, labels=labels), sources, ignored)
