"""``model_type: glm``, ``glm4``, ``glm4_moe`` and ``glm4_moe_lite``: GLM-4-9B-hf, GLM-Edge, GLM-4-0414, GLM-Z1, GLM-4.5
to GLM-4.7, GLM-4.7-Flash, and what glmquant writes.

All are transformers' own layouts, so names stay. Layers behind the last one predict several tokens at once, as a draft
for speculative decoding; the model itself does not read them, and transformers leaves them out too.
"""

import logging
import re
from collections.abc import Collection
from typing import Final

from glmquant.glm.config import Family, GlmConfig
from glmquant.glm.layouts.fields import Fields
from glmquant.glm.layouts.hf_config import parse_hf_config
from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.layouts.lineage import Traces
from glmquant.glm.names import EMBEDDING, HEAD, canonical_shapes
from glmquant.glm.parts import MLP_PARTS

log = logging.getLogger("glmquant.glm")

MOST_DRAFT_LAYERS: Final = 64
_LAYER: Final = re.compile(r"model\.layers\.(\d{1,6})\.")


def resolve(fields: Fields, family: Family | None, tensor_names: Collection[str] | None, _traces: Traces) -> Layout:
    """The layout of a canonical checkpoint; see :func:`glmquant.glm.layouts.resolve.resolve_layout`."""
    fields.choice("hidden_act", MLP_PARTS, "silu")
    config = parse_hf_config(fields, family)
    return _layout(config, tensor_names, _draft_layers(fields, config, tensor_names or ()))


def _draft_layers(fields: Fields, config: GlmConfig, tensor_names: Collection[str]) -> set[str]:
    """Tensors of the layers that predict several tokens at once (multi-token prediction)."""
    if config.experts is None and "num_nextn_predict_layers" not in fields:
        return set()
    name = "num_mtp_layers" if "num_mtp_layers" in fields else "num_nextn_predict_layers"
    last = config.num_hidden_layers + fields.integer(name, 1, low=0, high=MOST_DRAFT_LAYERS)
    numbers = {name: int(found[1]) for name in tensor_names if (found := _LAYER.match(name))}
    draft = {name for name, number in numbers.items() if config.num_hidden_layers <= number < last}
    if draft:
        layers = ", ".join(f"model.layers.{number}" for number in sorted({numbers[name] for name in draft}))
        log.info("%s is left out: it predicts several tokens at once, for speculative decoding", layers)
    return draft


def _layout(config: GlmConfig, tensor_names: Collection[str] | None, draft: set[str]) -> Layout:
    sources = {name: TensorSource(name, shape) for name, shape in canonical_shapes(config).items()}
    ignored = {name for name in tensor_names or () if name.endswith("rotary_emb.inv_freq")} | draft
    if config.tie_word_embeddings:
        sources[HEAD] = sources[EMBEDDING]
        ignored.add(HEAD)
    return Layout(config, sources, frozenset(ignored))
