"""``model_type: glm`` and ``glm4``: GLM-4-9B-hf, GLM-Edge, GLM-4-0414, GLM-Z1, and what glmquant writes.

Both are transformers' own layouts, so names stay; the two differ in two norms a block.
"""

from collections.abc import Collection

from glmquant.glm.config import Family, GlmConfig
from glmquant.glm.layouts.fields import Fields
from glmquant.glm.layouts.hf_config import parse_hf_config
from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.layouts.lineage import Traces
from glmquant.glm.names import EMBEDDING, HEAD, canonical_shapes
from glmquant.glm.parts import MLP_PARTS


def resolve(fields: Fields, family: Family | None, tensor_names: Collection[str] | None, _traces: Traces) -> Layout:
    """The layout of a canonical checkpoint; see :func:`glmquant.glm.layouts.resolve.resolve_layout`."""
    fields.choice("hidden_act", MLP_PARTS, "silu")
    return _layout(parse_hf_config(fields, family), tensor_names)


def _layout(config: GlmConfig, tensor_names: Collection[str] | None) -> Layout:
    sources = {name: TensorSource(name, shape) for name, shape in canonical_shapes(config).items()}
    ignored = {name for name in tensor_names or () if name.endswith("rotary_emb.inv_freq")}
    if config.tie_word_embeddings:
        sources[HEAD] = sources[EMBEDDING]
        ignored.add(HEAD)
    return Layout(config, sources, frozenset(ignored))
