"""Whether a bundle and a baseline are two forms of one model: another model's baseline measures nothing."""

import logging
from pathlib import Path
from typing import Final

from glmquant.errors import CheckError, Parameter
from glmquant.evaluation.stored_baseline import StoredBaseline
from glmquant.glm.config import GlmConfig
from glmquant.glm.layouts.hf_config import read_bundle_config
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.manifest import Manifest

SHAPE: Final = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
"""Fields of the configuration in which no quantization changes a model; not the architecture, since a bundle's
``config.json`` calls all by the one name that Optimum knows."""

log = logging.getLogger("glmquant")


def require_same_model(bundle: Path, baseline: Checkpoint | StoredBaseline) -> GlmTokenizer:
    """Refuses a baseline of another shape, vocabulary or tokenizer.

    Returns:
        The tokenizer to read texts with: the checkpoint's own, or where only its answers are stored, the bundle's.

    Raises:
        CheckError: the two differ; it says in what.
        CheckpointError: a side file of either that is missing or damaged.
    """
    if isinstance(baseline, Checkpoint) and baseline.quantization == "gptq":
        raise CheckError(
            "the baseline is quantized itself",
            where=Parameter("baseline", str(baseline.path)),
            expected="the float checkpoint that the bundle was made from",
            hint="give that checkpoint as `baseline`, and to compare quantizations the other's report as `against`",
        )
    config = read_bundle_config(bundle / "config.json")
    if different := _differences(config, baseline.config):
        raise _not_the_same("have different shapes: " + "; ".join(different), baseline)
    tokenizer = load_tokenizer(bundle, config)
    if tokenizer.vocabulary_sha256 != _vocabulary(baseline):
        raise _not_the_same("have different tokenizers", baseline)
    return baseline.tokenizer if isinstance(baseline, Checkpoint) else tokenizer


def origin_notes(baseline: Checkpoint | StoredBaseline, manifest: Manifest | None) -> tuple[str, ...]:
    """A sentence for the report, and a warning now, where the bundle was made from other weights than the baseline's:
    another model's, or the same without its adapter."""
    if manifest is None or not manifest.recipe:  # nobody says what it was quantized from
        return ()
    if manifest.source_fingerprint == baseline.fingerprint:
        return ()
    note = (
        f"the bundle was not made from these files: it names {manifest.origin}, and the baseline is {baseline.name}; "
        "losses may be the models', not quantization's"
    )
    log.warning("%s", note)
    return (note,)


def _vocabulary(baseline: Checkpoint | StoredBaseline) -> str:
    if isinstance(baseline, Checkpoint):
        return baseline.tokenizer.vocabulary_sha256
    return baseline.description.vocabulary


def _differences(bundle: GlmConfig, baseline: GlmConfig) -> list[str]:
    sides = [(name, getattr(bundle, name), getattr(baseline, name)) for name in SHAPE]
    return [f"{name} {ours}, baseline {theirs}" for name, ours, theirs in sides if ours != theirs]


def _not_the_same(how: str, baseline: Checkpoint | StoredBaseline) -> CheckError:
    return CheckError(
        f"the bundle and the baseline {how}",
        where=Parameter("baseline", str(baseline.path)),
        expected="the float checkpoint that the bundle was made from",
        hint="give that checkpoint as `baseline`",
    )
