"""``adapter_config.json`` as PEFT writes it: what kind of adapter it is, and by how much each module's addition counts.

What cannot become part of a weight is refused by name; what only concerned training is not looked at.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glmquant.core.untrusted import read_json
from glmquant.glm.layouts.fields import Fields
from glmquant.store.name_patterns import first_matches

ADAPTER_CONFIG: Final = "adapter_config.json"
MOST_RANKS: Final = 1 << 16
USUAL_ALPHA: Final = 8.0
MERGE_FIRST: Final = "merge it into its base with PEFT (model.merge_and_unload()), save, and give that as the model"
TRAIN_LORA: Final = "train a LoRA adapter instead, or give a model that was trained as a whole"

VIRTUAL_TOKENS: Final = {
    "PREFIX_TUNING": "prefix tuning",
    "P_TUNING": "P-tuning",
    "PROMPT_TUNING": "prompt tuning",
    "MULTITASK_PROMPT_TUNING": "multitask prompt tuning",
    "ADAPTION_PROMPT": "adaption prompts",
    "CPT": "context-aware prompt tuning",
}
"""Kinds that put learned vectors beside the text's: no weight of the model holds them."""

ORDINARY_STARTS: Final = (None, True, False, "gaussian", "eva", "orthogonal")
"""``init_lora_weights`` that leave the base as it is. The others, such as PiSSA, take something out of it first."""

NOT_MERGED: Final[Mapping[str, str]] = {
    "layer_replication": "repeats layers of the base model",
    "megatron_config": "is trained on Megatron's parallel layers",
    "target_parameters": "adds to parameters that are no linear layer's weight",
    "trainable_token_indices": "retrains single rows of the embedding",
    "alora_invocation_tokens": "acts after certain tokens only",
    "arrow_config": "chooses among adapters token by token",
    "use_qalora": "adds to groups of a quantized weight",
    "enable_lora": "is of PEFT 0.2 or earlier, which kept the parts of a fused layer in another form",
}
"""Settings that are not a low-rank addition to a whole weight, and what an adapter that uses them does."""


@dataclass(frozen=True)
class AdapterConfig:
    """What decides how much each addition counts.

    Attributes:
        tells_alpha: the file names ``lora_alpha``; else it is PEFT's default.
        rank_pattern, alpha_pattern: other numbers for modules whose names match a pattern.
        base: which model it says it was trained on; None where it does not.
        targets: ``target_modules`` where it is a list of names.
        saved: ``modules_to_save``, modules that were trained as a whole.
    """

    path: Path
    rank: int
    alpha: float
    tells_alpha: bool
    rank_stabilized: bool
    weight_decomposed: bool
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    base: str | None
    targets: tuple[str, ...]
    saved: tuple[str, ...]

    def weights(self, modules: Collection[str]) -> dict[str, tuple[int, float]]:
        """Each module's rank as told here, and what the product of its two matrices is multiplied by: ``alpha / r``,
        or ``alpha / sqrt(r)`` where it is rank-stabilized (arXiv:2312.03732).

        Raises:
            CheckpointError: a pattern that cannot be matched.
        """
        ranks = first_matches(self.rank_pattern, modules, f"{self.path}, rank_pattern")
        alphas = first_matches(self.alpha_pattern, modules, f"{self.path}, alpha_pattern")
        return {name: self._weight(int(ranks.get(name, self.rank)), alphas.get(name, self.alpha)) for name in modules}

    def _weight(self, rank: int, alpha: float) -> tuple[int, float]:
        return rank, alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_adapter_config(path: Path) -> AdapterConfig:
    """The configuration of a LoRA adapter.

    Raises:
        CheckpointError: another kind of adapter, a setting that no merged weight can follow, or a damaged field.
    """
    fields = Fields(read_json(path), path)
    _require_lora(fields)
    for name, does in NOT_MERGED.items():
        if fields.raw(name):
            raise fields.error(name, f"absent: such an adapter {does}, which is not implemented", MERGE_FIRST)
    _refuse_altered_base(fields)
    return AdapterConfig(
        path=path,
        rank=fields.integer("r", high=MOST_RANKS),
        alpha=fields.number("lora_alpha", USUAL_ALPHA, low=-1e6, high=1e6),
        tells_alpha="lora_alpha" in fields,
        rank_stabilized=fields.flag("use_rslora", False),
        weight_decomposed=fields.flag("use_dora", False),
        rank_pattern=_numbers(fields, "rank_pattern", whole=True),
        alpha_pattern=_numbers(fields, "alpha_pattern", whole=False),
        base=fields.text("base_model_name_or_path", "") or None,
        targets=_names(fields, "target_modules"),
        saved=_names(fields, "modules_to_save"),
    )


def _require_lora(fields: Fields) -> None:
    kind = fields.text("peft_type", "LORA").upper()
    if kind == "LORA":
        return
    if kind in VIRTUAL_TOKENS:
        raise fields.error(
            "peft_type", f"LORA: {VIRTUAL_TOKENS[kind]} gives the model learned vectors, no weights", TRAIN_LORA
        )
    raise fields.error("peft_type", "LORA: additions of another form are not implemented", MERGE_FIRST)


def _refuse_altered_base(fields: Fields) -> None:
    start = fields.raw("init_lora_weights")
    if start in ORDINARY_STARTS:
        return
    raise fields.error(
        "init_lora_weights",
        "true: an adapter that starts so adds to a base which that start has changed",
        "save it with PEFT as save_pretrained(…, path_initial_model_for_weight_conversion=…): that is plain LoRA",
    )


def _numbers(fields: Fields, name: str, *, whole: bool) -> dict[str, float]:
    values = fields.raw(name) or {}
    kinds = (int,) if whole else (int, float)
    expected = "an object from module names or patterns to numbers" + (" from 1" if whole else "")
    if not isinstance(values, dict) or not all(_is_number(value, kinds, whole) for value in values.values()):
        raise fields.error(name, expected)
    return values


def _is_number(value: Any, kinds: tuple[type, ...], whole: bool) -> bool:
    return type(value) in kinds and (1 <= value <= MOST_RANKS if whole else abs(value) <= 1e6)


def _names(fields: Fields, name: str) -> tuple[str, ...]:
    """A list of names; empty where there is a pattern, or nothing."""
    values = fields.raw(name) or ()
    if isinstance(values, str):
        return ()
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise fields.error(name, "a list of module names, or a pattern")
    return tuple(values)
