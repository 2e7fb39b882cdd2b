"""What ``quantize_config.json`` says, and how GPTQModel and vLLM would read it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from glmquant.core.spec import QuantSpec
from glmquant.errors import CheckpointError
from glmquant.glm.groups import linear_groups
from glmquant.store.gptq import GptqFormat
from glmquant.store.gptq_config import Specs, quantize_config, read_gptq_format, version_for
from tests.support.checkpoints import tiny_config

INT4, INT8 = QuantSpec(4, 128), QuantSpec(8, 32, symmetric=False)
GROUPS = linear_groups(tiny_config(layers=12))


def plan_of(default: QuantSpec | None, **others: QuantSpec | None) -> Specs:
    named = {name.replace("__", "."): spec for name, spec in others.items()}
    names = [group.name for group in GROUPS]
    return {name: named.get(name, named.get(name.split(".")[-1], default)) for name in names}


def as_read(config: dict[str, Any], module: str) -> dict[str, Any] | None:
    """The values of a module, by GPTQModel's rule: the first pattern that matches; None for a float module."""
    base = {key: config[key] for key in ("bits", "group_size", "sym")}
    for pattern, values in config.get("dynamic", {}).items():
        if re.match(pattern.removeprefix("-:").removeprefix("+:"), module):
            return None if pattern.startswith("-:") else base | values
    return base if module != "lm_head" or config["lm_head"] else None


def values_of(spec: QuantSpec | None) -> dict[str, Any] | None:
    return None if spec is None else {"bits": spec.bits, "group_size": spec.group_size, "sym": spec.symmetric}


def test_one_spec_for_all_blocks() -> None:
    assert quantize_config(GROUPS, plan_of(INT4, lm_head=None), "glmquant:0") == {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "desc_act": False,
        "static_groups": False,
        "true_sequential": True,
        "lm_head": False,
        "pack_dtype": "int32",
        "meta": {"quantizer": ["glmquant:0"]},
    }


def test_nothing_quantized_needs_no_configuration() -> None:
    assert quantize_config(GROUPS, plan_of(None), "glmquant:0") is None


PLANS = {
    "one spec": plan_of(INT4),
    "head in 8 bits": plan_of(INT4, lm_head=INT8),
    "head only": plan_of(None, lm_head=INT8),
    "down in 8 bits": plan_of(INT4, down_proj=INT8, lm_head=None),
    "some kept": plan_of(INT4, qkv_proj=None, layers__1__mlp__down_proj=None, layers__10__mlp__down_proj=INT8),
    "first and last layer": plan_of(
        INT4, layers__0__self_attn__o_proj=INT8, layers__11__mlp__gate_up_proj=QuantSpec(2, 16), lm_head=INT4
    ),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_every_module_is_read_as_planned(plan: Specs) -> None:
    config = quantize_config(GROUPS, plan, "glmquant:0")
    assert config is not None
    for group in linear_groups(tiny_config(layers=12)):
        members = [
            *group.members,
            *(member.replace("gate_up", half) for member in group.members for half in ("gate", "up")),
        ]
        fused = "model." + group.name if group.name != "lm_head" else group.name
        for module in (*members, fused):
            assert as_read(config, module) == values_of(plan[group.name]), module


@pytest.mark.parametrize(
    ("plan", "version"),
    [
        (plan_of(INT4), "gptq"),
        (plan_of(INT4, lm_head=INT8), "gptq_v2"),
        (plan_of(INT8), "gptq_v2"),
        (plan_of(None), "gptq"),
    ],
)
def test_v1_wherever_it_can_hold_the_zero_points(plan: Specs, version: str) -> None:
    assert version_for(plan) == version


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 64}, GptqFormat("gptq", 64)),
        ({"bits": 4, "group_size": -1}, GptqFormat("gptq", -1)),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v2", "group_size": 128}, GptqFormat("gptq_v2", 128)),
        ({"quant_method": "gptq", "format": "gptq_v2", "group_size": 128}, GptqFormat("gptq_v2", 128)),
    ],
)
def test_the_format_is_read_from_either_file(tmp_path: Path, section: dict[str, Any], expected: GptqFormat) -> None:
    assert read_gptq_format(tmp_path, {"quantization_config": section}) == expected
    (tmp_path / "quantize_config.json").write_text(json.dumps(section))
    assert read_gptq_format(tmp_path, {}) == expected


def test_a_float_checkpoint_has_no_format(tmp_path: Path) -> None:
    assert read_gptq_format(tmp_path, {}) is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quant_method": "awq"}, "quantized by 'awq'"),
        ({"quant_method": ["x"]}, "quantized by"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        ({"group_size": "128"}, "group_size is '128'"),
        (
            {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"},
            "packing_format is 'auto_round:auto_awq'",
        ),
        ([], "is a list"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, section: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_gptq_format(tmp_path, {"quantization_config": section})
