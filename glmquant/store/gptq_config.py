"""``quantization_config`` in ``config.json`` and ``quantize_config.json``, as AutoGPTQ and GPTQModel know them.

Modules that differ from the rest stand in ``dynamic`` (GPTQModel, ``QuantizeConfig.dynamic_get``; vLLM reads it the
same way): regular expressions over module names, with ``-:`` before them for modules that are not quantized, ``+:`` for
those with other values; the first that matches counts.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.core.untrusted import file_inside, read_json, shown
from glmquant.errors import CheckpointError
from glmquant.glm.config import LinearGroup
from glmquant.store.gptq import GptqFormat, Version
from glmquant.store.tensors import StoredTensor

log = logging.getLogger("glmquant.store")

QUANTIZE_CONFIG: Final = "quantize_config.json"
SECTION: Final = "quantization_config"
HEAD: Final = "lm_head"
QUANTIZED_PARTS: Final = (".qweight", ".qzeros", ".weight_scale", ".weight_scale_inv", ".SCB", ".absmax")
AUTO_ROUND: Final = ("auto-round", "intel/auto-round")

Specs = Mapping[str, QuantSpec | None]
"""A spec for each linear group by name; None where it is kept float."""


def read_gptq_format(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor] | None = None
) -> GptqFormat | None:
    """How a checkpoint's linear layers are stored; None where nothing says that they are quantized.

    Args:
        tensors: the stored ones, where known: float weights are float, whatever a merge left in ``config``.

    Raises:
        CheckpointError: quantized in a format that is not GPTQ's v1 or v2.
    """
    section, where = config.get(SECTION), f"{directory / 'config.json'}, {SECTION}"
    if section is None and (directory / QUANTIZE_CONFIG).exists():
        path = file_inside(directory, QUANTIZE_CONFIG, where=directory)
        section, where = read_json(path), str(path)
    if section is None:
        return None
    if tensors is not None and all(map(_is_float_or_aside, tensors.values())):
        log.warning("%s speaks of quantized weights, and they are float: it is passed over", where)
        return None
    if not isinstance(section, dict):
        raise CheckpointError(f"{SECTION} is a {type(section).__name__}", where=where, expected="an object: {…}")
    method = section.get("quant_method", "gptq")
    if method in AUTO_ROUND:
        return GptqFormat(_auto_round_version(section, where), _group_size(section, where))
    if method != "gptq":
        raise CheckpointError(
            f"the checkpoint is quantized by {shown(method)}",
            where=f"{where}, quant_method",
            expected="gptq, or auto-round in a GPTQ packing",
            hint="start from the float checkpoint",
        )
    return GptqFormat(_version(section, where), _group_size(section, where))


def _is_float_or_aside(tensor: StoredTensor) -> bool:
    """Whether a tensor is no sign of quantized weights: floats, and what is no weight."""
    return tensor.dtype.is_floating_point and not tensor.name.endswith(QUANTIZED_PARTS)


def _version(section: Mapping[str, Any], where: str) -> Version:
    name = section.get("checkpoint_format") or section.get("format") or "gptq"
    if name == "gptq":
        return "gptq"
    if name == "gptq_v2":
        return "gptq_v2"
    raise CheckpointError(
        f"checkpoint_format is {shown(name)}", where=f"{where}, checkpoint_format", expected="gptq or gptq_v2"
    )


def _auto_round_version(section: Mapping[str, Any], where: str) -> Version:
    """AutoRound's packings that are GPTQ's; the first two store zero points less one (``inference/backend.py``)."""
    name = section.get("packing_format", "auto_round:auto_gptq")
    if name in ("auto_round:auto_gptq", "auto_round:gptq"):
        return "gptq"
    if name in ("auto_round", "auto_round:gptqmodel"):
        return "gptq_v2"
    raise CheckpointError(
        f"packing_format is {shown(name)}",
        where=f"{where}, packing_format",
        expected="auto_round:auto_gptq or auto_round:gptqmodel",
        hint="save it from AutoRound with format='auto_round:auto_gptq'",
    )


def _group_size(section: Mapping[str, Any], where: str) -> int:
    size = section.get("group_size", WHOLE_ROW)
    if type(size) is not int:
        raise CheckpointError(f"group_size is {shown(size)}", where=f"{where}, group_size", expected="a whole number")
    return size


def version_for(specs: Specs) -> Version:
    """v1, which every reader knows, unless it cannot hold a zero point that is not in the middle."""
    return "gptq" if all(spec.symmetric for spec in specs.values() if spec is not None) else "gptq_v2"


def quantize_config(groups: Sequence[LinearGroup], specs: Specs, quantizer: str) -> dict[str, Any] | None:
    """The configuration of an artifact, its keys in a fixed order; None where nothing is quantized.

    Args:
        groups: of the model, each named in ``specs``.
        quantizer: name and version of the program, as ``glmquant:0.1.0``.
    """
    head = specs.get(HEAD)
    counts = Counter(spec for spec in specs.values() if spec is not None)
    if not counts:
        return None
    base = counts.most_common(1)[0][0]
    dynamic = dict(_block_rules([group for group in groups if group.name != HEAD], specs, base))
    if head not in (None, base):
        dynamic[f"+:{HEAD}$"] = _difference(head, base)
    values = {
        "quant_method": "gptq",
        "checkpoint_format": version_for(specs),
        **_values(base),
        "desc_act": False,
        "static_groups": False,
        "true_sequential": True,
        "lm_head": head is not None,
        "pack_dtype": "int32",
        "meta": {"quantizer": [quantizer]},
    }
    return values | ({"dynamic": dynamic} if dynamic else {})


def _block_rules(groups: Sequence[LinearGroup], specs: Specs, base: QuantSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    layers: dict[tuple[str, QuantSpec | None], list[str]] = {}
    for group in groups:
        if (spec := specs[group.unit]) != base:
            layers.setdefault((_module_pattern(group), spec), []).append(group.name.split(".")[1])
    for (modules, spec), numbers in layers.items():
        pattern = rf"model\.layers\.({'|'.join(dict.fromkeys(numbers))})\.{modules}$"
        yield (f"-:{pattern}", {}) if spec is None else (f"+:{pattern}", _difference(spec, base))


def _module_pattern(group: LinearGroup) -> str:
    """A regular expression for the group's modules in every form a reader may have them: split, or fused; one for all
    experts of a layer."""
    scope, _, fused = group.within_layer.rpartition(".")
    scope = re.sub(r"\\\.\d+$", r"\\.\\d+", re.escape(scope))
    names = dict.fromkeys(module.rpartition(".")[2] for module in (*(group.split or group.members), fused))
    if len(names) == 1:
        return rf"{scope}\.{re.escape(fused)}"
    if not all(name.endswith("_proj") for name in names):
        return rf"{scope}\.({'|'.join(names)})"
    stems = "|".join(name.removesuffix("_proj") for name in names)
    return rf"{scope}\.({stems})_proj"


def _values(spec: QuantSpec) -> dict[str, Any]:
    return {"bits": spec.bits, "group_size": spec.group_size, "sym": spec.symmetric}


def _difference(spec: QuantSpec | None, base: QuantSpec) -> dict[str, Any]:
    assert spec is not None
    return {key: value for key, value in _values(spec).items() if value != _values(base)[key]}
