"""``model_type: glm`` and ``glm4``: GLM-4-9B-hf, GLM-Edge, GLM-4-0414, GLM-Z1, and what glmquant writes.

Both are transformers' own layouts, so names stay; the two differ in two norms a block. Absent fields take the defaults
of ``GlmConfig`` and ``Glm4Config`` in transformers (4.57 and 5.23 agree on them); an absent pad token is the first end
token, since no attention reads it.
"""

from collections.abc import Collection

from glmquant.glm.config import Architecture, Family, GlmConfig
from glmquant.glm.layouts.fields import MOST_LAYERS, Fields, float_dtype
from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.names import EMBEDDING, HEAD, canonical_shapes
from glmquant.glm.parts import MLP_PARTS

DEFAULT_EOS = (151329, 151336, 151338)


def resolve_glm(fields: Fields, family: Family | None, tensor_names: Collection[str] | None) -> Layout:
    """The layout of a ``glm`` checkpoint; see :func:`glmquant.glm.layouts.resolve.resolve_layout`."""
    name = str(fields.raw("_name_or_path") or "").lower()
    return _layout(_config(fields, "glm", family or ("glm-edge" if "glm-edge" in name else "glm")), tensor_names)


def resolve_glm4(fields: Fields, family: Family | None, tensor_names: Collection[str] | None) -> Layout:
    """The layout of a ``glm4`` checkpoint; see :func:`glmquant.glm.layouts.resolve.resolve_layout`."""
    return _layout(_config(fields, "glm4", family or "glm-4-0414"), tensor_names)


def _layout(config: GlmConfig, tensor_names: Collection[str] | None) -> Layout:
    sources = {name: TensorSource(name, shape) for name, shape in canonical_shapes(config).items()}
    ignored = {name for name in tensor_names or () if name.endswith("rotary_emb.inv_freq")}
    if config.tie_word_embeddings:
        sources[HEAD] = sources[EMBEDDING]
        ignored.add(HEAD)
    return Layout(config, sources, frozenset(ignored))


def _config(fields: Fields, architecture: Architecture, family: Family) -> GlmConfig:
    hidden_act = fields.choice("hidden_act", MLP_PARTS, "silu")
    heads = fields.integer("num_attention_heads")
    groups = fields.integer("num_key_value_heads", 2)
    head_dim = fields.integer("head_dim", 128)
    vocabulary = fields.integer("vocab_size")
    if heads % groups:
        raise fields.error("num_key_value_heads", f"a divisor of num_attention_heads, {heads}")
    if head_dim % 2:
        raise fields.error("head_dim", "an even number: rotation acts on pairs")
    eos = fields.token_ids("eos_token_id", vocabulary, DEFAULT_EOS)
    return GlmConfig(
        architecture=architecture,
        family=family,
        num_hidden_layers=fields.integer("num_hidden_layers", high=MOST_LAYERS),
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
        rotary_dim=_rotary_dim(fields, head_dim),
        rope_theta=_rope_number(fields, "rope_theta", 10000.0),
        position_divisor=_position_divisor(fields),
        rms_norm_eps=fields.number("rms_norm_eps", 1.5625e-07, high=1.0),
        vocab_size=vocabulary,
        max_position_embeddings=fields.integer("max_position_embeddings", 131072),
        attention_bias=fields.flag("attention_bias", True),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        bos_token_id=fields.token_id("bos_token_id", vocabulary),
        eos_token_ids=eos,
        pad_token_id=fields.integer("pad_token_id", eos[0], low=0, high=vocabulary - 1),
        float_dtype=float_dtype(fields, "float32"),
        hidden_act=hidden_act,
    )


def _rope_section(fields: Fields) -> Fields | None:
    """transformers 5 gathers what concerns rotation in ``rope_parameters``; earlier ones had ``rope_scaling``."""
    for name in ("rope_parameters", "rope_scaling"):
        if name in fields:
            return fields.section(name)
    return None


def _rope_number(fields: Fields, name: str, default: float) -> float:
    section = _rope_section(fields)
    outer = fields.number(name, default)
    if section is None or name not in section:
        return outer
    inner = section.number(name)
    if name in fields and inner != outer:
        raise fields.error(
            name, f"{inner:g}, as the rope section of the same file says; releases of transformers disagree"
        )
    return inner


def _rotary_dim(fields: Fields, head_dim: int) -> int:
    factor = _rope_number(fields, "partial_rotary_factor", 0.5)
    rotary_dim = int(head_dim * factor)
    if not 2 <= rotary_dim <= head_dim or rotary_dim % 2:
        raise fields.error(
            "partial_rotary_factor",
            f"a share of head_dim, {head_dim}, that is an even number of dimensions, not {rotary_dim}",
        )
    return rotary_dim


def _position_divisor(fields: Fields) -> float:
    """Linear scaling (``rope_type: linear``) divides positions by its factor; no other scaling is implemented."""
    section = _rope_section(fields)
    if section is None:
        return 1.0
    kind = section.choice("rope_type" if "rope_type" in section else "type", ("default", "linear"), "default")
    return section.number("factor", high=1e9) if kind == "linear" else 1.0
