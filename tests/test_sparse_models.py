"""Models with routed experts against transformers' own: GLM-4.7-Flash (``glm4_moe_lite``), GLM-4.5 (``glm4_moe``)."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear, silu
from transformers import PreTrainedModel

from glmquant.data.calibration import CalibrationSet
from glmquant.errors import CheckpointError, ExportError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.gate import Verdict, judge, overall
from glmquant.evaluation.results import SCHEMA, AccuracyReport, ModelFacts, Setting
from glmquant.evaluation.routing import compare_routing, routes
from glmquant.evaluation.routing_metrics import measure_routing
from glmquant.evaluation.source import Query
from glmquant.glm.parts import attention, latent_attention, mlp, routing, sparse_mlp
from glmquant.glm.rotary import rotate
from glmquant.onnx_export.save import export_bundle
from glmquant.quantization import expert_pass
from glmquant.quantization.calibrate import key_value_ranges
from glmquant.quantization.linear_pass import quantize_linear
from glmquant.quantization.quantize import quantize
from glmquant.recipe.check_options import Limits
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.recipe.schema import ExportOptions
from glmquant.reports.html import to_html
from glmquant.reports.markdown import to_markdown
from glmquant.reports.read import report_from_dict
from glmquant.runtime.model import OnnxModel
from glmquant.store.adapter import open_adapter
from glmquant.store.checkpoint import Checkpoint, open_checkpoint, with_adapter
from tests.support.moe import with_weights_of, write_moe

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "flash": ("glm4_moe_lite", {}),
    "flash with biases": ("glm4_moe_lite", {"attention_bias": True}),
    "air": ("glm4_moe", {}),
    "air with biases": ("glm4_moe", {"attention_bias": True}),
    "4.6, heads normalized": ("glm4_moe", {"use_qk_norm": True}),
    "two shared experts, all layers sparse": ("glm4_moe", {"n_shared_experts": 2, "first_k_dense_replace": 0}),
}
IDS = torch.randint(3, 160, (2, 24), generator=torch.Generator().manual_seed(0))

Models = dict[str, tuple[PreTrainedModel, Path]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("moe")
    return {
        name: (write_moe(root / str(number), kind, **changes), root / str(number))
        for number, (name, (kind, changes)) in enumerate(KINDS.items())
    }


def of_transformers(model: PreTrainedModel, ids: Tensor = IDS, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(ids, attention_mask=mask).logits
    return logits


def ours(checkpoint: Checkpoint) -> Tensor:
    rows = BaselineSource(checkpoint).logits([Query(row.numpy(), len(row)) for row in IDS])
    return torch.stack([torch.from_numpy(each) for each in rows])


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


def run_onnx(bundle: Path, ids: Tensor = IDS, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    return torch.from_numpy(np.stack(list(OnnxModel.open(bundle).forward(ids.numpy(), mask.numpy()))))


@pytest.mark.parametrize("name", KINDS)
def test_the_forward_pass_is_that_of_transformers(name: str, models: Models) -> None:
    model, directory = models[name]
    assert distance(ours(open_checkpoint(directory)), of_transformers(model)) <= 1e-5


def _softmax(self: routing.Router, x_TD: Tensor) -> tuple[Tensor, Tensor]:
    scores = linear(x_TD, self.weight_XD).softmax(-1)
    chosen = (scores + self.bias_X).topk(self.per_token).indices
    return chosen, self._weights(scores.gather(1, chosen))


def _without_bias(self: routing.Router, x_TD: Tensor) -> tuple[Tensor, Tensor]:
    scores = linear(x_TD, self.weight_XD).sigmoid()
    chosen = scores.topk(self.per_token).indices
    return chosen, self._weights(scores.gather(1, chosen))


def _bias_in_weights(self: routing.Router, x_TD: Tensor) -> tuple[Tensor, Tensor]:
    scores = linear(x_TD, self.weight_XD).sigmoid() + self.bias_X
    chosen = scores.topk(self.per_token).indices
    return chosen, self._weights(scores.gather(1, chosen))


def _unscaled(self: routing.Router, scores: Tensor) -> Tensor:
    return scores / scores.sum(-1, keepdim=True)


def _other_half(x: Tensor, rope: Any, *, in_pairs: bool = True) -> Tensor:
    return rotate(x, rope, in_pairs=not in_pairs)


def _without_shared(self: Any, step: int, output: Tensor, *rest: Any) -> Tensor:
    return torch.zeros_like(mlp.swiglu(output))


def _up_first(gate_up: Tensor) -> Tensor:
    up, gated = gate_up.chunk(2, dim=-1)
    return silu(gated) * up


def _next_expert(self: routing.Routing, expert: int) -> tuple[Tensor, Tensor]:
    count = len(self.starts) - 1
    part = slice(self.starts[(expert + 1) % count], self.starts[(expert + 1) % count + 1])
    return self.tokens[part], self.weights[part]


MUTANTS: dict[str, tuple[object, str, Any, tuple[str, ...]]] = {
    "softmax for sigmoid": (routing.Router, "choose", _softmax, ("flash", "air")),
    "correction bias dropped": (routing.Router, "choose", _without_bias, ("flash", "air")),
    "correction bias added to the weights": (routing.Router, "choose", _bias_in_weights, ("flash", "air")),
    "no routed scaling": (routing.Router, "_weights", _unscaled, ("flash", "air")),
    "the model's epsilon in the latents' norms": (latent_attention, "LATENT_EPS", 1e-5, ("flash",)),
    "halves for pairs": (latent_attention, "rotate", _other_half, ("flash",)),
    "pairs for halves": (attention, "rotate", _other_half, ("air",)),
    "shared experts left out": (sparse_mlp.SparseMlp, "between", _without_shared, ("flash", "air")),
    "gate and up swapped": (sparse_mlp, "swiglu", _up_first, ("flash", "air")),
    "experts in another order": (routing.Routing, "of", _next_expert, ("flash", "air")),
    "the rotating part first in published heads": (Tensor, "roll", lambda x, *_, **__: x, ("flash",)),
    "heads not normalized": (attention, "rms_norm", lambda x, *_: x, ("4.6, heads normalized",)),
}


@pytest.mark.parametrize(
    ("mutant", "name"), [(mutant, name) for mutant, (*_, names) in MUTANTS.items() for name in names]
)
def test_every_known_mistake_shows(mutant: str, name: str, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    model, directory = models[name]
    owner, attribute, replacement, _ = MUTANTS[mutant]
    checkpoint = open_checkpoint(directory)
    monkeypatch.setattr(owner, attribute, replacement)
    found = ours(checkpoint)
    monkeypatch.undo()
    assert distance(found, of_transformers(model)) > 1e-4


def test_layers_that_draft_are_left_out_and_told(models: Models, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        open_checkpoint(models["flash"][1])
    assert any("model.layers.3 is left out" in message for message in caplog.messages)


def test_a_draft_in_a_file_of_its_own_is_left_out_too(models: Models, tmp_path: Path) -> None:
    """GLM-4.6 has ``mtp.safetensors``; llama.cpp's converter stumbled over it (ggml-org/llama.cpp#16359)."""
    model, directory = models["flash"]
    tensors = load_file(directory / "model.safetensors")
    draft = {name: tensor for name, tensor in tensors.items() if name.startswith("model.layers.3.")}
    files = {"model-00001-of-00001.safetensors": tensors.keys() - draft.keys(), "mtp.safetensors": draft.keys()}
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, tmp_path / file)
    weight_map = {name: file for file, names in files.items() for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    assert distance(ours(open_checkpoint(tmp_path)), of_transformers(model)) <= 1e-5


@pytest.mark.parametrize("name", ["flash", "air"])
def test_the_published_spelling_of_the_configuration_gives_the_same_model(
    name: str, models: Models, tmp_path: Path
) -> None:
    """As the publisher's own files have it, without what transformers 5 adds."""
    _, directory = models[name]
    values = json.loads((directory / "config.json").read_text())
    rope = values.pop("rope_parameters")
    for added in ("mlp_layer_types", "dtype", "rope_interleave", "head_dim" if name == "flash" else "mlp_bias"):
        values.pop(added, None)
    values |= {"first_k_dense_replace": 1, "topk_method": "noaux_tc", "rope_scaling": None, "torch_dtype": "float32"}
    values |= {"rope_theta": rope["rope_theta"], "num_nextn_predict_layers": 1}
    values |= {"partial_rotary_factor": rope.get("partial_rotary_factor", 1.0)}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="link"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    assert open_checkpoint(tmp_path).config == open_checkpoint(directory).config


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "groups of experts": ({"n_group": 2}, "n_group"),
    "weights that do not sum to 1": ({"norm_topk_prob": False}, "norm_topk_prob"),
    "another score": ({"scoring_func": "softmax"}, "scoring_func"),
    "more experts a token than there are": ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
    "more experts than any model has": ({"n_routed_experts": 4096, "num_hidden_layers": 1000}, "n_routed_experts"),
    "queries without a latent": ({"q_lora_rank": None}, "q_lora_rank"),
    "values of another width": ({"v_head_dim": 16}, "v_head_dim"),
    "sparse layers before dense ones": ({"mlp_layer_types": ["sparse", "dense", "sparse"]}, "mlp_layer_types"),
    "two opinions on dense layers": ({"first_k_dense_replace": 2}, "first_k_dense_replace"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(what: str, models: Models, tmp_path: Path) -> None:
    directory = models["flash"][1]
    changes, named = REFUSED[what]
    values = json.loads((directory / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=named):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(("scale", "method"), [("weight_scale", "compressed-tensors"), ("weight_scale_inv", "fp8")])
def test_an_fp8_copy_is_refused_by_name(scale: str, method: str, models: Models, tmp_path: Path) -> None:
    directory = models["flash"][1]
    tensors = load_file(directory / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[name.removesuffix("weight") + scale] = torch.ones(1, 1)
    save_file(tensors, tmp_path / "model.safetensors")
    values = json.loads((directory / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"(?s)FP8.*BF16"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("stray", ["model.layers.1.mlp.experts.8.up_proj.weight", "model.layers.4.enorm.weight"])
def test_a_tensor_without_a_place_is_refused(stray: str, models: Models, tmp_path: Path) -> None:
    directory = models["flash"][1]
    tensors = load_file(directory / "model.safetensors") | {stray: torch.ones(32, 64)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="have no place"):
        open_checkpoint(tmp_path)


def test_a_damaged_router_is_refused(models: Models, tmp_path: Path) -> None:
    directory = models["flash"][1]
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.gate.e_score_correction_bias"][3] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="e_score_correction_bias"):
        open_checkpoint(tmp_path).block(1)


@pytest.mark.parametrize("side", ["left", "right", None])
@pytest.mark.parametrize("name", ["flash", "air with biases", "4.6, heads normalized"])
def test_the_float_bundle_answers_as_transformers_does(
    name: str, side: str | None, models: Models, tmp_path: Path
) -> None:
    model, directory = models[name]
    export_bundle(open_checkpoint(directory), ExportOptions(max_length=64), tmp_path)
    mask = torch.ones_like(IDS)
    if side is not None:
        mask[1, slice(0, 5) if side == "left" else slice(-5, None)] = 0
    found, expected = run_onnx(tmp_path, IDS, mask), of_transformers(model, IDS, mask)
    real = mask.bool()
    assert distance(found[real], expected[real]) <= 1e-4


def quantized_to(directory: Path, out: Path, **changes: Any) -> Checkpoint:
    checkpoint = open_checkpoint(directory)
    method = changes.pop("method", {"kind": "rtn"})
    spec = {"bits": 4, "group_size": 32, **changes.pop("spec", {})}
    recipe = load_recipe(None, {"rules": [{"match": "*", "spec": spec, "method": method}], **changes})
    tokens = torch.randint(3, 160, (48, 32), generator=torch.Generator().manual_seed(1))
    samples = CalibrationSet(tokens, (), "", 0) if method["kind"] == "gptq" else None
    out.mkdir()
    quantize(checkpoint, make_plan(recipe, checkpoint.config), samples, out)
    return open_checkpoint(out)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["flash", "air with biases", "two shared experts, all layers sparse"])
def test_the_4_bit_bundle_answers_as_the_dequantized_model(
    name: str, symmetric: bool, models: Models, tmp_path: Path
) -> None:
    kind, changes = KINDS[name]
    quantized = quantized_to(models[name][1], tmp_path / "q", spec={"symmetric": symmetric})
    (tmp_path / "onnx").mkdir()
    export_bundle(quantized, ExportOptions(max_length=64, accuracy_level=0), tmp_path / "onnx")
    model = with_weights_of(write_moe(tmp_path / "float", kind, **changes), quantized)
    found, expected = run_onnx(tmp_path / "onnx"), of_transformers(model)
    assert distance(found, expected) <= 1e-4
    assert distance(ours(quantized), expected) <= 1e-4
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize(("bits", "group_size", "most"), [(8, 32, 3e-2), (8, -1, 3e-2), (2, 16, 1e-4), (4, -1, 1e-4)])
def test_other_widths_and_groups_answer_too(
    bits: int, group_size: int, most: float, models: Models, tmp_path: Path
) -> None:
    """ONNX Runtime rounds activations to INT8 in front of 8-bit experts, whatever level is asked for."""
    quantized = quantized_to(models["flash"][1], tmp_path / "q", spec={"bits": bits, "group_size": group_size})
    (tmp_path / "onnx").mkdir()
    export_bundle(quantized, ExportOptions(max_length=64, accuracy_level=0), tmp_path / "onnx")
    assert distance(run_onnx(tmp_path / "onnx"), ours(quantized)) <= most


@pytest.mark.parametrize("kv_cache", ["float", "int8"])
@pytest.mark.parametrize("name", ["flash", "air"])
def test_a_prefill_and_steps_with_the_cache_are_one_long_sequence(
    name: str, kv_cache: str, models: Models, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(models[name][1])
    ranges = key_value_ranges(checkpoint, CalibrationSet(IDS, (), "", 0)) if kv_cache == "int8" else None
    options = ExportOptions(max_length=64, kv_cache=kv_cache)  # type: ignore[arg-type]
    export_bundle(checkpoint, options, tmp_path, key_values=ranges)
    model = OnnxModel.open(tmp_path)
    cache = model.new_cache(2, 32)
    ids, mask = IDS.numpy(), np.ones_like(IDS.numpy())
    parts = [model.forward_with_cache(ids[:, :8], mask[:, :8], cache)]
    parts += [model.forward_with_cache(ids[:, n : n + 1], mask[:, : n + 1], cache) for n in range(8, 24)]
    found = torch.from_numpy(np.concatenate([np.stack(list(part)) for part in parts], axis=1))
    assert distance(found, of_transformers(models[name][0])) <= (1e-4 if kv_cache == "float" else 5e-2)


def test_plain_onnx_refuses_routed_experts(models: Models, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(models["air"][1])
    with pytest.raises(ExportError, match="routed experts"):
        export_bundle(checkpoint, ExportOptions(max_length=64, profile="standard"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_rule_matches_the_router_and_it_stays_float32(models: Models, tmp_path: Path) -> None:
    quantized = quantized_to(models["flash"][1], tmp_path / "q")
    assert quantized.manifest is not None
    names = [record.name for record in quantized.manifest.groups if record.name.startswith("layers.1.mlp")]
    shared = "layers.1.mlp.shared_experts"
    assert names == [f"{shared}.gate_up_proj", f"{shared}.down_proj", "layers.1.mlp.experts"]
    stored = load_file(tmp_path / "q" / "model-00003-of-00005.safetensors")
    original = load_file(models["flash"][1] / "model.safetensors")
    for name in ("model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.e_score_correction_bias"):
        assert stored[name].dtype == torch.float32
        assert torch.equal(stored[name], original[name])


def kl(found: Tensor, expected: Tensor) -> float:
    ours_, theirs = found.log_softmax(-1), expected.log_softmax(-1)
    return float((theirs.exp() * (theirs - ours_)).sum(-1).mean())


@pytest.mark.parametrize("name", ["flash", "4.6, heads normalized"])
def test_gptq_is_better_than_rounding_and_error_propagation_better_still(
    name: str, models: Models, tmp_path: Path
) -> None:
    expected = of_transformers(models[name][0])
    made: dict[str, dict[str, Any]] = {
        "rtn": {},
        "gptq": {"method": {"kind": "gptq"}},
        "propagated": {"method": {"kind": "gptq"}, "fit": {"error_propagation": 0.5, "equalize": True}},
    }
    lost = {
        how: kl(ours(quantized_to(models[name][1], tmp_path / how, **changes)), expected)
        for how, changes in made.items()
    }
    assert lost["propagated"] < lost["gptq"] < 0.8 * lost["rtn"]


def test_experts_that_no_token_reaches_are_quantized_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = write_moe(tmp_path / "float", "glm4_moe_lite")
    tensors = load_file(tmp_path / "float" / "model.safetensors")
    tensors["model.layers.2.mlp.gate.e_score_correction_bias"][[1, 6]] = -100.0
    save_file(tensors, tmp_path / "float" / "model.safetensors")
    quantized = quantized_to(tmp_path / "float", tmp_path / "q", method={"kind": "gptq"})
    assert quantized.manifest is not None
    named = {record.name: record.few_tokens for record in quantized.manifest.groups if record.few_tokens}
    assert named == {"layers.2.mlp.experts": (1, 6)}
    assert any("2 of 16 routed experts met fewer than 64" in message for message in caplog.messages)
    experts, stored = quantized.block(2).mlp.experts, model.state_dict()["model.layers.2.mlp.experts.down_proj"]
    assert experts is not None
    for expert in (1, 6):
        rounded = experts.load(expert, "down_proj").dense()
        assert float((rounded - stored[expert]).norm() / stored[expert].norm()) < 0.12


def test_the_order_of_experts_changes_nothing(models: Models, tmp_path: Path) -> None:
    directory = models["flash"][1]
    order = [3, 0, 7, 1, 6, 2, 5, 4]
    tensors = load_file(directory / "model.safetensors")
    moved = dict(tensors)
    for layer in (1, 2):
        at = f"model.layers.{layer}.mlp"
        for name in ("gate.weight", "gate.e_score_correction_bias"):
            moved[f"{at}.{name}"] = tensors[f"{at}.{name}"][order]
        for to, expert in enumerate(order):
            for name in ("gate_proj", "up_proj", "down_proj"):
                moved[f"{at}.experts.{to}.{name}.weight"] = tensors[f"{at}.experts.{expert}.{name}.weight"]
    save_file(moved, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    assert distance(ours(open_checkpoint(tmp_path)), ours(open_checkpoint(directory))) <= 1e-6


def test_a_quantized_cache_without_ranges_names_the_way_out(models: Models, tmp_path: Path) -> None:
    options = ExportOptions(max_length=64, kv_cache="int8")
    with pytest.raises(ExportError, match=r"calibrate with export\.kv_cache=int8.*export\.kv_cache=float"):
        export_bundle(open_checkpoint(models["flash"][1]), options, tmp_path)


def checked(models: Models, out: Path, **limits: float) -> tuple[AccuracyReport, Path]:
    """A report on the 4-bit bundle of the first model, with its tokenizer's place taken by random windows."""
    directory = models["flash"][1]
    quantized = quantized_to(directory, out / "q")
    (out / "onnx").mkdir()
    export_bundle(quantized, ExportOptions(max_length=64, accuracy_level=0), out / "onnx")
    windows = [row.numpy() for row in torch.randint(3, 160, (6, 20), generator=torch.Generator().manual_seed(5))]
    routing = measure_routing(out / "onnx", routes(open_checkpoint(directory), windows), windows)
    outcomes = judge(Limits.model_validate(limits), None, (), routing)
    setting = Setting(ModelFacts("onnx", 1), ModelFacts("float", 2), 0, ())
    report = AccuracyReport(SCHEMA, overall(outcomes), setting, outcomes, None, (), (), routing=routing)
    return report, out / "q"


def test_the_check_says_how_many_tokens_meet_other_experts(models: Models, tmp_path: Path) -> None:
    report, quantized = checked(models, tmp_path, routing_change=0.9)
    routing = report.routing
    assert routing is not None
    assert [layer.layer for layer in routing.layers] == [1, 2]
    windows = [row.numpy() for row in torch.randint(3, 160, (6, 20), generator=torch.Generator().manual_seed(5))]
    by_torch = compare_routing(open_checkpoint(models["flash"][1]), open_checkpoint(quantized), windows)
    assert [layer.differing for layer in routing.layers] == pytest.approx([each.differing for each in by_torch])
    assert 0 < routing.change.estimate < 0.9
    assert report.verdict is Verdict.PASS
    assert all(sum(layer.candidate_load) == 3 * 120 for layer in routing.layers)
    assert report_from_dict(json.loads(report.to_json()), tmp_path) == report


def test_a_limit_on_routing_can_be_missed_and_is_shown(models: Models, tmp_path: Path) -> None:
    report, _ = checked(models, tmp_path, routing_change=0.001)
    assert report.verdict is Verdict.FAIL
    markdown, page = to_markdown(report), to_html(report)
    assert "## Routed experts" in markdown
    assert "routing\\_change of text" in markdown
    assert "layer 2, expert 7: " in page


def test_a_limit_on_routing_decides_nothing_for_a_dense_model() -> None:
    (outcome,) = judge(Limits.model_validate({"routing_change": 0.1}), None, ())
    assert outcome.verdict is None
    assert "no routed experts" in outcome.reason


def test_memory_of_an_expert_is_given_back_before_the_next(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each meets another number of tokens, so that the C library could use little of it again."""
    given_back: list[int] = []
    monkeypatch.setattr(expert_pass, "trim", lambda: given_back.append(1))
    checkpoint = quantized_to(models["flash"][1], tmp_path / "out", method={"kind": "gptq"})
    experts = checkpoint.config.experts
    assert experts is not None
    assert len(given_back) == experts.count * (checkpoint.config.num_hidden_layers - experts.first_layer)


def test_a_run_that_is_stopped_inside_a_block_ends_with_the_same_bytes(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(models["flash"][1])
    settings = {
        "rules": [{"match": "layers.*", "spec": {"bits": 4, "group_size": 32}, "method": {"kind": "gptq"}}],
        "fit": {"equalize": True, "error_propagation": 0.5},
    }
    plan = make_plan(load_recipe(None, settings), checkpoint.config)
    samples = CalibrationSet(torch.randint(3, 160, (16, 32), generator=torch.Generator().manual_seed(1)), (), "", 0)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    quantize(checkpoint, plan, samples, tmp_path / "whole")
    met: list[str] = []

    def stopping(name: str, *arguments: Any) -> Any:
        met.append(name)
        if name == "layers.2.mlp.experts.5.gate_up_proj":
            raise KeyboardInterrupt
        return quantize_linear(name, *arguments)

    monkeypatch.setattr(expert_pass, "quantize_linear", stopping)
    with pytest.raises(KeyboardInterrupt):
        quantize(checkpoint, plan, samples, tmp_path / "stopped")
    monkeypatch.undo()
    quantize(checkpoint, plan, samples, tmp_path / "stopped")
    assert met[-1] == "layers.2.mlp.experts.5.gate_up_proj"
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "stopped").iterdir())
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("air", ["q_proj", "v_proj", "o_proj"]),
        ("flash", ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"]),
    ],
)
def test_a_lora_adapter_is_merged_as_peft_merges_it(name: str, targets: list[str], tmp_path: Path) -> None:
    kind, changes = KINDS[name]
    base = write_moe(tmp_path / "base", kind, **changes)
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    generator = torch.Generator().manual_seed(3)
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_" in parameter_name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = of_transformers(adapted.merge_and_unload())
    checkpoint = with_adapter(open_checkpoint(tmp_path / "base"), open_adapter(tmp_path / "adapter"))
    assert distance(ours(checkpoint), expected) <= 1e-5
