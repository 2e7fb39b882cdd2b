"""From a published ``config.json`` to the canonical model: one resolver per ``model_type``."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from glmquant.glm.config import Family
from glmquant.glm.layouts import chatglm, hf_glm
from glmquant.glm.layouts.fields import Fields
from glmquant.glm.layouts.labels import as_classifier, read_labels
from glmquant.glm.layouts.layout import Layout

Resolver = Callable[[Fields, Family | None, Collection[str] | None], Layout]

RESOLVERS: Final[dict[str, Resolver]] = {
    "chatglm": chatglm.resolve,
    "glm": hf_glm.resolve_glm,
    "glm4": hf_glm.resolve_glm4,
}


def resolve_layout(
    config: dict[str, Any],
    *,
    config_path: Path,
    family: Family | None = None,
    tensor_names: Collection[str] | None = None,
) -> Layout:
    """What a published checkpoint holds and where.

    Args:
        config: the parsed ``config.json``.
        config_path: what errors name.
        family: lineage, for a native checkpoint whose ``_name_or_path`` does not tell it.
        tensor_names: the published tensors, where known: tells a tied head from one of its own, and what to ignore.

    Raises:
        CheckpointError: a ``model_type`` or variant that is not supported, or a field that is missing or out of range.
    """
    fields = Fields(config, config_path)
    model_type = fields.raw("model_type")
    resolver = RESOLVERS.get(model_type) if isinstance(model_type, str) else None
    if resolver is None:
        raise fields.error("model_type", "one of " + ", ".join(RESOLVERS), "glmquant reads GLM-family checkpoints only")
    layout = resolver(fields, family, tensor_names)
    labels = read_labels(fields, tensor_names)
    return as_classifier(layout, labels, tensor_names) if labels else layout
