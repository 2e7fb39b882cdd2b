"""``config.json`` in transformers' form: of ``glm`` and ``glm4`` checkpoints, and of bundles.

Absent fields take the defaults of ``GlmConfig``, ``Glm4Config``, ``Glm4MoeConfig`` and ``Glm4MoeLiteConfig`` in
transformers (4.57 and 5.24 agree on them); an
absent pad token is the first end token, since no attention reads it. A bundle opens without torch, so nothing here
knows tensors.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast, get_args

from glmquant.core.untrusted import read_json
from glmquant.glm.config import Architecture, Family, GlmConfig
from glmquant.glm.layouts.experts import latent_head_dim, latent_rotary_dim, read_experts, read_latent
from glmquant.glm.layouts.fields import MOST_LAYERS, Fields, float_dtype
from glmquant.glm.layouts.labels import read_labels
from glmquant.glm.layouts.lineage import published_names

ARCHITECTURES: Final = get_args(Architecture)
FAMILY_OF: Final[dict[str, Family]] = {"glm4": "glm-4-0414", "glm4_moe": "glm-4.5", "glm4_moe_lite": "glm-4.7-flash"}
DEFAULT_EOS = (151329, 151336, 151338)
SMALLEST_ROPE: Final = 1e-3
"""Of a base, a share or a factor of rotation: a position divided by less may be no number any more."""


def read_bundle_config(path: Path) -> GlmConfig:
    """The model of a bundle's ``config.json``.

    Raises:
        CheckpointError: a file that is missing or damaged.
    """
    return parse_bundle_config(read_json(path), path)


def parse_bundle_config(values: dict[str, Any], path: Path) -> GlmConfig:
    """The model of a ``config.json`` that was read; see :func:`read_bundle_config`."""
    fields = Fields(values, path)
    return replace(parse_hf_config(fields), labels=read_labels(fields, None))


def parse_hf_config(fields: Fields, family: Family | None = None) -> GlmConfig:
    """The model that a ``model_type`` of :data:`ARCHITECTURES` describes, its labels apart.

    Raises:
        CheckpointError: a field that is missing or out of range.
    """
    architecture = fields.choice("model_type", ARCHITECTURES, "glm")
    has_experts = architecture in ("glm4_moe", "glm4_moe_lite")
    heads = fields.integer("num_attention_heads")
    latent = read_latent(fields) if architecture == "glm4_moe_lite" else None
    groups = fields.integer("num_key_value_heads", None if latent is not None else 2)
    if latent is not None:
        rotary_dim = latent_rotary_dim(fields, _rope_number(fields, "partial_rotary_factor", 1.0))
        head_dim = latent_head_dim(fields, latent, rotary_dim)
    else:
        head_dim = fields.integer("head_dim", 128)
        rotary_dim = _rotary_dim(fields, head_dim)
    vocabulary = fields.integer("vocab_size")
    if heads % groups:
        raise fields.error("num_key_value_heads", f"a divisor of num_attention_heads, {heads}")
    eos = fields.token_ids("eos_token_id", vocabulary, DEFAULT_EOS)
    return GlmConfig(
        architecture=cast(Architecture, architecture),
        family=family or _family(fields, architecture),
        num_hidden_layers=fields.integer("num_hidden_layers", high=MOST_LAYERS),
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        rope_theta=_rope_number(fields, "rope_theta", 10000.0),
        position_divisor=_position_divisor(fields),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-5 if has_experts else 1.5625e-07, high=1.0),
        vocab_size=vocabulary,
        max_position_embeddings=fields.integer("max_position_embeddings", 131072),
        attention_bias=fields.flag("attention_bias", not has_experts),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        bos_token_id=fields.token_id("bos_token_id", vocabulary),
        eos_token_ids=eos,
        pad_token_id=fields.integer("pad_token_id", eos[0], low=0, high=vocabulary - 1),
        float_dtype=float_dtype(fields, "float32"),
        hidden_act=fields.text("hidden_act", "silu"),
        qk_norm=architecture == "glm4_moe" and fields.flag("use_qk_norm", False),
        experts=read_experts(fields) if has_experts else None,
        latent=latent,
    )


def _family(fields: Fields, architecture: str) -> Family:
    if architecture in FAMILY_OF:
        return FAMILY_OF[architecture]
    named = any("glm-edge" in name.lower() for name in published_names(fields.values, {}))
    return "glm-edge" if named else "glm"


def _rope_section(fields: Fields) -> Fields | None:
    """transformers 5 gathers what concerns rotation in ``rope_parameters``; earlier ones had ``rope_scaling``."""
    for name in ("rope_parameters", "rope_scaling"):
        if name in fields:
            return fields.section(name)
    return None


def _rope_number(fields: Fields, name: str, default: float) -> float:
    section = _rope_section(fields)
    outer = fields.number(name, default, low=SMALLEST_ROPE)
    if section is None or name not in section:
        return outer
    inner = section.number(name, low=SMALLEST_ROPE)
    if name in fields and inner != outer:
        raise fields.error(
            name, f"{inner:g}, as the rope section of the same file says; releases of transformers disagree"
        )
    return inner


def _rotary_dim(fields: Fields, head_dim: int) -> int:
    if head_dim % 2:
        raise fields.error("head_dim", "an even number: rotation acts on pairs")
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
    return section.number("factor", low=SMALLEST_ROPE, high=1e9) if kind == "linear" else 1.0
