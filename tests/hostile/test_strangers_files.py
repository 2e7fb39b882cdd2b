"""Files that a stranger made with intent: each ends in one clear error, in little time and memory, or does no harm."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmquant.core.spec import QuantSpec
from glmquant.errors import CalibrationError, CheckError, CheckpointError, GlmQuantError, RecipeError
from glmquant.glm.tokenizers.chat import Message, render
from glmquant.glm.tokenizers.steps import MOST_ADDED, require_bounded_steps
from glmquant.recipe.load import MOST_VALUES, load_recipe
from glmquant.reports.html import to_html
from glmquant.reports.markdown import to_markdown
from glmquant.reports.read import read_report
from glmquant.store.adapter import open_adapter
from glmquant.store.calibration import read_calibration, write_calibration
from glmquant.store.checkpoint import open_checkpoint, with_adapter
from glmquant.store.run_record import require_run_record
from tests.store.test_calibration import calibration
from tests.store.test_quantized_checkpoints import gptq, published, shuffled, write
from tests.support.adapters import halves, write_adapter
from tests.support.checkpoints import tiny_config, tiny_sparse_config, write_checkpoint
from tests.support.reports import report

HUGE = 10**4000

# --- config.json ----------------------------------------------------------------------------------------------------

ROPE = "rope_parameters"
CONFIGS: dict[str, dict[str, Any]] = {
    **{
        f"{name} of 4,000 digits": {name: sign * HUGE}
        for name in ("vocab_size", "num_hidden_layers", "rms_norm_eps", "rope_theta", "eos_token_id", "head_dim")
        for sign in (1, -1)
    },
    "a rotation that stretches without bound": {ROPE: {"rope_type": "yarn", "factor": 1e300}},
    "positions divided by nothing": {ROPE: {"rope_type": "linear", "factor": 0}},
    "positions divided by almost nothing": {ROPE: {"rope_type": "linear", "factor": 5e-324}},
    "positions divided by too much": {ROPE: {"rope_type": "linear", "factor": HUGE}},
    "positions that run backwards": {ROPE: {"rope_type": "linear", "factor": -5}},
    "a base of almost nothing": {"rope_theta": 5e-324, ROPE: None},
    "a rotation of another kind": {ROPE: {"rope_type": {"a": {}}}},
    "a rotation that is a list": {ROPE: [1] * 1000},
    "labels that are objects": {
        "architectures": ["GlmForSequenceClassification"],
        "id2label": {str(number): {} for number in range(3000)},
    },
    "a dtype that is a list": {"dtype": ["x"]},
}
SPARSE: dict[str, dict[str, Any]] = {
    "10^9 experts": {"n_routed_experts": 10**9},
    "4,096 experts in each of 1,024 layers": {"n_routed_experts": 4096, "num_hidden_layers": 1024},
    "more experts than there are": {"n_routed_experts": 4096},
    "shared experts without end": {"n_shared_experts": HUGE},
    "a token that meets no expert": {"num_experts_per_tok": 0},
    "layers of 2^18 kinds": {"mlp_layer_types": ["sparse"] * (1 << 18)},
    "kinds that are an object": {"mlp_layer_types": {"dense": 1}},
}


def changed(directory: Path, **values: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return directory


@pytest.mark.parametrize("values", CONFIGS.values(), ids=CONFIGS)
def test_configurations(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        open_checkpoint(changed(write_checkpoint(tmp_path / "m", tiny_config()), **values))


@pytest.mark.parametrize("values", SPARSE.values(), ids=SPARSE)
def test_configurations_of_routed_experts(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        open_checkpoint(changed(write_checkpoint(tmp_path / "m", tiny_sparse_config()), **values))


# --- the index ------------------------------------------------------------------------------------------------------

OUTSIDE = (
    "../../../etc/passwd", "/etc/passwd", "a/../../x", "..", ".", "", "a.safetensors/", "a\\b.safetensors",
    "C:x.safetensors", "a.safetensors\0", "\ud800.safetensors", "a" * 5000 + ".safetensors", "../m/a.safetensors",
    "//a.safetensors", "/proc/self/environ", "a.safetensors\n::error::x.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda name: ascii(name)[:24])
def test_an_index_leads_nowhere_outside(tmp_path: Path, name: str) -> None:
    model = write_checkpoint(tmp_path / "m", tiny_config())
    (model / "model.safetensors").rename(model / "a.safetensors")
    weights = {"model.norm.weight": name, "lm_head.weight": "a.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(model)
    assert "::error::" not in [line.strip()[:9] for line in str(caught.value).splitlines()]


# --- adapters -------------------------------------------------------------------------------------------------------

Q = "model.layers.0.self_attn.q_proj"
ADAPTERS: dict[str, dict[str, Any]] = {
    "a rank of 4,000 digits": {"r": HUGE},
    "a rank of none": {"r": 0},
    "a weight beyond floats": {"lora_alpha": 1e308},
    "a pattern that is far too large": {"rank_pattern": {"((((a{0,99}){0,99}){0,99}){0,99})": 4}},
    "a pattern's number of 4,000 digits": {"alpha_pattern": {"q_proj": HUGE}},
    "a pattern's number in words": {"alpha_pattern": {"q_proj": "nan"}},
    "another kind in a list": {"peft_type": ["LORA"]},
}
HALVES: dict[str, dict[str, torch.Tensor]] = {
    "of no rank": {f"{Q}.lora_A.weight": torch.ones(0, 64), f"{Q}.lora_B.weight": torch.ones(64, 0)},
    "of two ranks": {f"{Q}.lora_A.weight": torch.ones(4, 64), f"{Q}.lora_B.weight": torch.ones(64, 5)},
    "not finite": {f"{Q}.lora_A.weight": torch.full((4, 64), torch.nan), f"{Q}.lora_B.weight": torch.ones(64, 4)},
    "whose product is not": {
        f"{Q}.lora_A.weight": torch.full((4, 64), 3e38),
        f"{Q}.lora_B.weight": torch.full((64, 4), 3e38),
    },
    "of whole numbers": {n: t.long() for n, t in halves(Q, 64, 64).items()},
    "of a layer beyond any": halves("model.layers.99999999999999999999.self_attn.q_proj", 64, 64),
    "of a layer in other digits": halves("model.layers.\u0660.self_attn.q_proj", 64, 64),
    "whose name would be acted on": halves("\n::error::\u202e", 64, 64),
}


def adapted(directory: Path, tensors: dict[str, torch.Tensor], **config: Any) -> None:
    base = write_checkpoint(directory / "m", tiny_config())
    write_adapter(directory / "a", tensors, **config)
    with_adapter(open_checkpoint(base), open_adapter(directory / "a")).block(0).floating()


@pytest.mark.parametrize("config", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        adapted(tmp_path, halves(Q, 64, 64), **config)


@pytest.mark.parametrize("tensors", HALVES.values(), ids=HALVES)
def test_matrices_of_adapters(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError):
        adapted(tmp_path, tensors)


def test_an_adapters_base_is_a_name_and_no_path(tmp_path: Path) -> None:
    adapted(tmp_path, halves(Q, 64, 64), base_model_name_or_path="../../../etc", auto_mapping={"parent_library": "os"})


# --- GPTQ -----------------------------------------------------------------------------------------------------------

Edit = Callable[[torch.Tensor], torch.Tensor]
WORDS: dict[str, tuple[str, Edit]] = {
    "groups before the first": ("g_idx", lambda words: words * 0 - 1),
    "groups beyond the last": ("g_idx", lambda words: words * 0 + (1 << 31) - 1),
    "all columns in one group": ("g_idx", lambda words: words * 0),
    "groups of fractions": ("g_idx", lambda words: words.float()),
    "groups in rows": ("g_idx", lambda words: words[None]),
    "scales that are no numbers": ("scales", lambda words: words * torch.nan),
    "scales too small for float16": ("scales", lambda words: words.float() * 0 + 1e-30),
    "no scales": ("scales", lambda words: words[:0]),
    "a single scale": ("scales", lambda words: words[0, 0]),
    "zero points of fractions": ("qzeros", lambda words: words.float()),
    "too few zero points": ("qzeros", lambda words: words[:1]),
    "no codes": ("qweight", lambda words: words[:0]),
    "a single word of codes": ("qweight", lambda words: words[0, 0]),
}


@pytest.mark.parametrize(("suffix", "edit"), WORDS.values(), ids=WORDS)
def test_words_of_gptq(tmp_path: Path, suffix: str, edit: Edit) -> None:
    words = gptq(published(), QuantSpec(4, 32, symmetric=False), "gptq", shuffled)
    name = next(name for name in words if name.endswith(f".{suffix}"))
    words[name] = edit(words[name]).contiguous()
    section = {"quant_method": "gptq", "bits": HUGE, "group_size": 32, "dynamic": {"(a+)+$": {"bits": HUGE}}}
    write(tmp_path / "m", words, quantization_config=section)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "m").block(0).floating()


# --- recipes --------------------------------------------------------------------------------------------------------

RECIPES = {
    "a tag that calls": '!!python/object/apply:os.system ["echo pwned"]',
    "a tag that names": "!!python/name:os.system",
    "a tag that is spelled out": '!<tag:yaml.org,2002:python/module:os> ""',
    "bytes": '!!binary "AAAA"',
    "a set": "!!set {a, b}",
    "itself": "&a [*a]",
    "a number without end": '!!float "1e99999999"',
    "a number of 20,000 bits": '!!int "0b' + "1" * 20_000 + '"',
    "a number of base 60": "1:" * 2000 + "1",
    "half of a pair": r'"\ud800"',
}


def recipe(directory: Path, text: str) -> None:
    path = directory / "recipe.yaml"
    path.write_text(text)
    load_recipe(path).identity()


@pytest.mark.parametrize("value", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("key", ["seed", "num_samples"])
def test_values_of_recipes(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(RecipeError):
        recipe(tmp_path, f"version: 1\ncalibration: {{{key}: {value}}}\n")


@pytest.mark.parametrize("prefix", ["%TAG ! tag:yaml.org,2002:python/\n---\n!object/apply:os.system []\n", "- " * 300])
def test_recipes_that_are_none(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(RecipeError):
        recipe(tmp_path, prefix)


def test_recipes_of_too_many_values(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"more than {MOST_VALUES:,} values"):
        recipe(tmp_path, "version: 1\nrules: [" + "x," * MOST_VALUES + "x]\n")


# --- what glmquant wrote, and somebody changed ----------------------------------------------------------------------

WRONG = 200_000
"""Items, for each of which an error would be kept: 300 MB."""


def test_a_calibration_of_wrong_sources_ends_at_the_first(tmp_path: Path) -> None:
    write_calibration(calibration(), tmp_path)
    values = json.loads((tmp_path / "calibration.json").read_text()) | {"format": 1, "sources": [1] * WRONG}
    (tmp_path / "calibration.json").write_text(json.dumps(values))
    with pytest.raises(CalibrationError, match="damaged") as caught:
        read_calibration(tmp_path)
    assert "sources.0" in str(caught.value)


def test_a_record_of_too_many_files_is_not_looked_through(tmp_path: Path) -> None:
    values = {"format": 2, "inputs": "", "check": "", "written": {str(n): 1 for n in range(WRONG)}}
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="at most"):
        require_run_record(tmp_path)


@pytest.mark.parametrize("field", ["limits", "tasks", "texts", "notes", "coverage"])
def test_a_report_of_wrong_items_ends_at_the_first(tmp_path: Path, field: str) -> None:
    (tmp_path / "report.json").write_text(json.dumps(json.loads(report().to_json()) | {field: [1] * WRONG}))
    with pytest.raises(CheckError, match="damaged"):
        read_report(tmp_path)


NUMBERS = ("NaN", "Infinity", "-Infinity", "1e400", "1e308", "-1e308", "1" * 140, "1" * 5000)
PLACES = ('"estimate": ', '"low": ', '"high": ', '"kl": ', '"baseline_nll": ', '"num_bytes": ', '"p99": ')


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:12])
def test_numbers_that_no_report_holds(tmp_path: Path, place: str, number: str) -> None:
    before, found, after = report().to_json().partition(place)
    assert found
    rest = after[after.index("," if "," in after.split("\n")[0] else "\n") :]
    (tmp_path / "report.json").write_text(before + place + number + rest)
    with pytest.raises(CheckError, match="no number of an accuracy report"):
        read_report(tmp_path)


def test_a_report_of_a_model_that_is_broken_is_drawn(tmp_path: Path) -> None:
    """The perplexity of a thousand nats is no float."""
    values = json.loads(report().to_json())
    values["language"]["windows"][0] |= {"baseline_nll": 1000.0, "candidate_nll": 100_000.0}
    (tmp_path / "report.json").write_text(json.dumps(values))
    read = read_report(tmp_path)
    assert to_html(read)
    assert to_markdown(read)


def test_a_report_of_braces_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"schema": 3, "x": [' + "{}," * (1 << 22) + "{}]}")
    with pytest.raises(CheckError, match="too many values"):
        read_report(tmp_path)


# --- tokenizers and templates ---------------------------------------------------------------------------------------


def around(pieces: int, ids: int) -> dict[str, Any]:
    template = [{"SpecialToken": {"id": "x", "type_id": 0}}] * pieces
    special = {"x": {"id": "x", "ids": [1] * ids, "tokens": ["x"] * ids}}
    return {"type": "TemplateProcessing", "single": template, "pair": [], "special_tokens": special}


@pytest.mark.parametrize(("pieces", "ids"), [(1000, 1000), (MOST_ADDED + 1, 0), (1, MOST_ADDED + 1)])
def test_tokens_around_a_text_that_would_fill_the_memory(pieces: int, ids: int) -> None:
    for processor in (around(pieces, ids), {"type": "Sequence", "processors": [around(pieces, ids)]}):
        with pytest.raises(CheckpointError, match="tokens around a text"):
            require_bounded_steps({"post_processor": processor}, "tokenizer.json")


def test_a_text_put_before_every_text_is_short() -> None:
    steps = [{"type": "Prepend", "prepend": "x" * 1000}]
    with pytest.raises(CheckpointError, match="times as long"):
        require_bounded_steps({"normalizer": {"type": "Sequence", "normalizers": steps}}, "tokenizer.json")


TEMPLATES = {
    "a class": "{{ messages.__class__.__mro__ }}",
    "a class, formatted": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "globals": "{{ strftime_now.__globals__.os.system('echo pwned') }}",
    "a file": "{% include '/etc/passwd' %}",
    "a file's macros": "{% import '/etc/passwd' as x %}",
    "a file's blocks": "{% extends '/etc/passwd' %}",
    "a width": "{{ '{0:{1}}'.format(1, 99999999) }}",
    "a width by a filter": "{{ '%*d' | format(99999999, 1) }}",
    "bytes of a number": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "a shift": "{{ (1).__lshift__(10 ** 10) }}",
    "replacing nothing": "{{ ('a' * 10000).replace('', 'b' * 10000) }}",
    "joining": "{{ range(99999) | join('x' * 10000) }}",
    "lists in lists": "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}",
    "itself": "{% macro f() %}{% for i in [1, 2] %}{{ f() }}{% endfor %}{% endmacro %}{{ f() }}",
    "parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "negations": "{{ " + "not " * 20000 + "x }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates(template: str) -> None:
    with pytest.raises(GlmQuantError):
        render(template, [Message("user", "hi")], {})


@pytest.mark.parametrize("name", ["mod\u202eel", "ﬁ\u0301", "a\n::error::b", "x" * 200, "-rf", "$(id)", "~"])
def test_a_models_name_is_shown_and_no_more(tmp_path: Path, name: str) -> None:
    model = write_checkpoint(tmp_path / name, tiny_config())
    (model / "config.json").write_text("{")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(model)
    assert "\u202e" not in str(caught.value)
    assert not any(line.lstrip().startswith("::") for line in str(caught.value).splitlines())
