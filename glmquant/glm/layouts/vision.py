"""``model_type: glm4v``, ``glm46v`` and ``glm_ocr``: GLM-4.1V, GLM-4.6V-Flash and GLM-OCR, whose text part is read.

That part is a ``glm4`` under other names. Its positions are in three streams, for time, height and width; text has the
same position in all of them, which is plain rotation. What sees images is left out, and told.
"""

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

from glmquant.glm.config import Family
from glmquant.glm.layouts import hf_glm
from glmquant.glm.layouts.fields import Fields
from glmquant.glm.layouts.layout import Layout
from glmquant.glm.layouts.lineage import Traces

log = logging.getLogger("glmquant.glm")

SECTION: Final = "text_config"
OUTER: Final = ("tie_word_embeddings", "eos_token_id", "pad_token_id", "bos_token_id", "torch_dtype", "dtype")
"""Fields of the text part that may stand beside its section."""

FACTOR: Final = "partial_rotary_factor"
ROTATION: Final = ("rope_parameters", "rope_scaling")

_OURS, _THEIRS, _IMAGES = "model.", "model.language_model.", "model.visual."


def resolve(fields: Fields, family: Family | None, tensor_names: Collection[str] | None, traces: Traces) -> Layout:
    """The layout of the text part; see :func:`glmquant.glm.layouts.resolve.resolve_layout`."""
    images = {name for name in tensor_names or () if name.startswith(_IMAGES)}
    plain = None if tensor_names is None else {_plain(name): name for name in tensor_names if name not in images}
    layout = hf_glm.resolve(_text_fields(fields, plain), family, plain, traces)
    if images:
        log.warning("the text part alone is read: %d tensors that see images are left out", len(images))
    sources = {name: replace(source, name=_published(source.name)) for name, source in layout.sources.items()}
    return Layout(layout.config, sources, frozenset(map(_published, layout.ignored)) | images)


def _text_fields(fields: Fields, tensor_names: Collection[str] | None) -> Fields:
    """The section of the text part, or all fields where the file has no sections.

    What the classes of these models take as given is said: a head's size, that all of it rotates where nothing else is
    stated, and whether projections have biases, which the tensors tell.
    """
    text = fields.section(SECTION) if SECTION in fields else fields
    own: dict[str, Any] = {name: fields.raw(name) for name in OUTER if name in fields} | dict(text.values)
    if "head_dim" not in text:
        own["head_dim"] = max(1, text.integer("hidden_size") // text.integer("num_attention_heads"))
    if not any(FACTOR in text.section(name) for name in ROTATION if name in text):
        own.setdefault(FACTOR, 1.0)
    if tensor_names is not None:
        own["attention_bias"] = any(name.endswith("self_attn.q_proj.bias") for name in tensor_names)
    return Fields({**own, "model_type": "glm4"}, fields.where)


def _plain(name: str) -> str:
    return _OURS + name.removeprefix(_THEIRS) if name.startswith(_THEIRS) else name


def _published(name: str) -> str:
    return _THEIRS + name.removeprefix(_OURS) if name.startswith(_OURS) else name
