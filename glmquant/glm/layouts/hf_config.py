"""``config.json`` in transformers' form: of ``glm`` and ``glm4`` checkpoints, and of bundles.

Absent fields take the defaults of ``GlmConfig`` and ``Glm4Config`` in transformers (4.57 and 5.23 agree on them); an
absent pad token is the first end token, since no attention reads it. A bundle opens without torch, so nothing here
knows tensors.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast, get_args

from glmquant.core.untrusted import read_json
from glmquant.glm.config import Architecture, Family, GlmConfig
from glmquant.glm.layouts.fields import MOST_LAYERS, Fields, float_dtype
from glmquant.glm.layouts.labels import read_labels
from glmquant.glm.layouts.lineage import published_names

ARCHITECTURES: Final = get_args(Architecture)
DEFAULT_EOS = (151329, 151336, 151338)


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
    """The model that ``model_type: glm`` or ``glm4`` describes, its labels apart.

    Raises:
        CheckpointError: a field that is missing or out of range.
    """
    architecture = fields.choice("model_type", ARCHITECTURES, "glm")
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
        architecture=cast(Architecture, architecture),
        family=family or _family(fields, architecture),
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
        hidden_act=fields.text("hidden_act", "silu"),
    )


def _family(fields: Fields, architecture: str) -> Family:
    if architecture == "glm4":
        return "glm-4-0414"
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
