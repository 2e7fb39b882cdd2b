"""Artifacts written piece by piece and read back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glmquant.core.spec import QuantSpec
from glmquant.data.calibration import CalibrationSet, TextSource
from glmquant.errors import CheckpointError, OutputError, QuantizationError
from glmquant.glm.config import GlmConfig
from glmquant.glm.groups import linear_groups
from glmquant.recipe.check_options import Limits
from glmquant.store.artifact import ArtifactWriter, StoreLayout, copy_side_files
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.gptq_config import Specs
from glmquant.store.manifest import GroupRecord
from glmquant.store.output import output_directory
from tests.support.checkpoints import (
    GOLDEN,
    assert_same_block,
    assert_same_linear,
    float_tensors,
    random_block,
    random_float,
    random_head,
    tiny_config,
    write_checkpoint,
)

INT4, INT8 = QuantSpec(4, 32), QuantSpec(8, 16, symmetric=False)
RECIPE: dict[str, Any] = {"version": 1, "rules": []}
LIMITS = Limits.model_validate({"perplexity_ratio": 1.05})
SAMPLES = CalibrationSet(
    torch.arange(8).view(2, 4), (TextSource("a.txt", 1, "cd" * 32), TextSource("b.txt", 1)), "ef" * 32, 0
)


def plan_of(config: GlmConfig, spec: QuantSpec | None, **others: QuantSpec | None) -> Specs:
    names = [group.name for group in linear_groups(config)]
    return {name: others.get(name.split(".")[-1], spec) for name in names}


def source_of(directory: Path, config: GlmConfig) -> Checkpoint:
    return open_checkpoint(write_checkpoint(directory / "source", config))


def records_of(config: GlmConfig, layer: int, plan: Specs) -> list[GroupRecord]:
    names = [group.name for group in linear_groups(config) if group.name.startswith(f"layers.{layer}.")]
    return [GroupRecord(name, plan[name], "rtn", 0.25 * i, None) for i, name in enumerate(names)]


def write_all(directory: Path, source: Checkpoint, plan: Specs, layout: StoreLayout = "fused") -> None:
    """Whatever is not there yet."""
    config = source.config
    writer = ArtifactWriter(directory, config, plan, layout=layout)
    if not writer.has_embedding:
        writer.write_embedding(random_float(config.vocab_size, config.hidden_size, seed=9))
    for layer in range(config.num_hidden_layers):
        if not writer.has_block(layer):
            writer.write_block(layer, random_block(config, layer, plan), records_of(config, layer, plan))
    if not writer.has_head:
        writer.write_head(random_float(config.hidden_size, seed=8), random_head(config, plan["lm_head"]))
    writer.finish(source, recipe=RECIPE, calibration=SAMPLES, limits=LIMITS)


PLANS: dict[str, tuple[QuantSpec | None, dict[str, QuantSpec | None], str | None]] = {
    "symmetric": (INT4, {"lm_head": None}, "gptq"),
    "asymmetric": (INT8, {"lm_head": None}, "gptq_v2"),
    "mixed": (INT4, {"lm_head": INT8, "down_proj": QuantSpec(2, 16), "o_proj": None}, "gptq_v2"),
    "rows": (QuantSpec(4, -1), {}, "gptq"),
    "ragged": (QuantSpec(4, 64), {"lm_head": None}, "gptq"),
    "float": (None, {}, None),
}


@pytest.mark.parametrize("layout", ["fused", "split"])
@pytest.mark.parametrize("architecture", ["glm", "glm4"])
@pytest.mark.parametrize(("spec", "others", "version"), PLANS.values(), ids=PLANS.keys())
def test_what_is_written_is_read(
    tmp_path: Path,
    spec: QuantSpec | None,
    others: dict[str, QuantSpec | None],
    version: str | None,
    architecture: str,
    layout: StoreLayout,
) -> None:
    config = tiny_config(architecture=architecture)
    plan = plan_of(config, spec, **others)
    with output_directory(tmp_path / "out") as partial:
        write_all(partial, source_of(tmp_path, config), plan, layout)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written.get("quantization_config", {}).get("checkpoint_format") == version
    artifact = open_checkpoint(tmp_path / "out")
    assert artifact.config == config
    assert artifact.is_quantized == (version is not None)
    assert torch.equal(artifact.embedding(), random_float(config.vocab_size, config.hidden_size, seed=9))
    assert torch.equal(artifact.final_norm(), random_float(config.hidden_size, seed=8))
    assert_same_linear(artifact.lm_head(), random_head(config, plan["lm_head"]))
    for layer in range(config.num_hidden_layers):
        assert_same_block(artifact.block(layer), random_block(config, layer, plan))


def test_names_on_disk(tmp_path: Path) -> None:
    config = tiny_config(layers=1)
    for layout in ("fused", "split"):
        with output_directory(tmp_path / layout) as partial:
            write_all(partial, source_of(tmp_path, config), plan_of(config, INT4, lm_head=None), layout)
    fused, split = (load_file(tmp_path / name / "model-00002-of-00003.safetensors") for name in ("fused", "split"))
    at = "model.layers.0."
    assert {name.removeprefix(at) for name in fused if "proj" not in name} == {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
    }
    suffixes = ("qweight", "qzeros", "scales", "g_idx")
    modules = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
    for module in modules:
        bias = ("bias",) if module.endswith(("q_proj", "k_proj", "v_proj")) else ()
        assert {name for name in fused if name.startswith(f"{at}{module}.")} == {
            f"{at}{module}.{suffix}" for suffix in (*suffixes, *bias)
        }
    assert f"{at}mlp.gate_up_proj.qweight" in fused
    assert not [name for name in split if "gate_up" in name]
    assert torch.equal(
        torch.cat([split[f"{at}mlp.{half}_proj.qweight"] for half in ("gate", "up")], dim=1),
        fused[f"{at}mlp.gate_up_proj.qweight"],
    )
    index = json.loads((tmp_path / "fused" / "model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "fused").glob("*.safetensors"))
    tensors = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())


def test_the_manifest(tmp_path: Path) -> None:
    source = open_checkpoint(GOLDEN / "chatglm2-tiny")
    plan = plan_of(source.config, INT4, lm_head=None)
    with output_directory(tmp_path / "out") as partial:
        write_all(partial, source, plan)
    artifact = open_checkpoint(tmp_path / "out")
    assert artifact.manifest is not None
    assert artifact.manifest.source_name == "chatglm2-tiny"
    assert artifact.manifest.source_fingerprint == source.fingerprint
    assert artifact.manifest.calibration == SAMPLES.sha256
    assert artifact.manifest.calibration_texts == ("cd" * 32,)
    assert artifact.manifest.limits == LIMITS
    assert artifact.manifest.recipe == RECIPE
    assert artifact.manifest.groups == tuple(r for layer in range(3) for r in records_of(source.config, layer, plan))
    assert artifact.config == source.config, "the family too"


def test_a_tied_head(tmp_path: Path) -> None:
    config = tiny_config(tied=True)
    source = source_of(tmp_path, replace(config, tie_word_embeddings=False))
    source = replace(source, config=config)
    with output_directory(tmp_path / "kept") as partial:
        write_all(partial, source, plan_of(config, INT4, lm_head=None))
    kept = open_checkpoint(tmp_path / "kept")
    assert kept.config.tie_word_embeddings
    assert torch.equal(kept.lm_head().dense(torch.float16), kept.embedding())
    with output_directory(tmp_path / "quantized") as partial:
        write_all(partial, source, plan_of(config, INT4, lm_head=INT8))
    quantized = open_checkpoint(tmp_path / "quantized")
    assert not quantized.config.tie_word_embeddings, "its head is no longer the embedding"
    assert_same_linear(quantized.lm_head(), random_head(config, INT8))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def write_until_stopped(out: Path, source: Checkpoint, plan: Specs, pieces: int) -> None:
    """Leaves what a run leaves that is killed after so many pieces, while it writes the next."""
    with output_directory(out, resume_key="k") as partial:
        write_all(partial, source, plan)
        for name in ("config.json", "glmquant.json", *sorted(p.name for p in partial.glob("*.safetensors"))[pieces:]):
            (partial / name).unlink()
        if pieces < 4:
            (partial / f"model-{pieces + 1:05}-of-00004.safetensors.unfinished").write_bytes(b"cut short")
        raise KeyboardInterrupt


def write_on_a_full_disk(out: Path, source: Checkpoint, plan: Specs) -> None:
    """What the operating system answers when the second block is written is what it answers on a full disk."""
    with output_directory(out, resume_key="k") as partial:
        (partial / "model-00003-of-00004.safetensors.unfinished").symlink_to("/dev/full")
        write_all(partial, source, plan)


@pytest.mark.parametrize("pieces", range(5))
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path, pieces: int) -> None:
    config = tiny_config(layers=2)
    source, plan = source_of(tmp_path, config), plan_of(config, INT4, lm_head=INT8)
    with output_directory(tmp_path / "whole", resume_key="k") as partial:
        write_all(partial, source, plan)
    with pytest.raises(KeyboardInterrupt):
        write_until_stopped(tmp_path / "stopped", source, plan, pieces)
    with output_directory(tmp_path / "stopped", resume_key="k") as partial:
        writer = ArtifactWriter(partial, config, plan)
        assert writer.has_embedding == (pieces > 0)
        assert [writer.has_block(layer) for layer in range(2)] == [pieces > 1, pieces > 2]
        assert writer.has_head == (pieces > 3)
        write_all(partial, source, plan)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_full_disk_while_a_piece_is_written(tmp_path: Path) -> None:
    config = tiny_config()
    source, plan = source_of(tmp_path, config), plan_of(config, INT4, lm_head=None)
    with pytest.raises(OutputError, match="disk is full"):
        write_on_a_full_disk(tmp_path / "out", source, plan)
    with output_directory(tmp_path / "out", resume_key="k") as partial:
        writer = ArtifactWriter(partial, config, plan)
        assert [writer.has_block(0), writer.has_block(1)] == [True, False]
        write_all(partial, source, plan)
    assert open_checkpoint(tmp_path / "out").config == config


def test_shapes_that_do_not_fit_are_found_before_any_work(tmp_path: Path) -> None:
    config = replace(tiny_config(), vocab_size=164)
    with pytest.raises(QuantizationError, match="lm_head has 164 output rows"):
        ArtifactWriter(tmp_path, config, plan_of(config, INT4))
    config = replace(tiny_config(), intermediate_size=90)
    with pytest.raises(QuantizationError, match=r"model\.layers\.0\.mlp\.(down|gate_up)_proj has"):
        ArtifactWriter(tmp_path, config, plan_of(config, INT4, lm_head=None))
    assert list(tmp_path.iterdir()) == []


def test_side_files_are_copied_and_nothing_else(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    kept = ("LICENSE", "LICENSE.txt", "MODEL_LICENSE", "Notice.md", "generation_config.json")
    for name in (*kept, "README.md", "modeling_chatglm.py", "config.json"):
        (source / name).write_text(name)
    (source / "LICENSES").mkdir()
    copy_side_files(source, target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {name: name for name in kept}


def test_a_copied_json_file_has_no_mark_that_others_stumble_over(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "generation_config.json").write_text('{"top_p": 0.5}', encoding="utf-16")
    copy_side_files(source, target)
    assert (target / "generation_config.json").read_bytes() == b'{"top_p": 0.5}'


def test_side_files_may_not_lead_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "LICENSE").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match="link out"):
        copy_side_files(source, tmp_path)
    (source / "LICENSE").unlink()
    with (source / "LICENSE").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="too large"):
        copy_side_files(source, tmp_path)


def test_transformers_opens_the_float_artifact(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = tiny_config()
    source = source_of(tmp_path, config)
    plan = plan_of(config, None)
    with output_directory(tmp_path / "out") as partial:
        write_all(partial, source, plan)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    state = model.state_dict()
    block = random_block(config, 1, plan)
    assert torch.equal(state["model.layers.1.mlp.gate_up_proj.weight"], block.linears()["mlp.gate_up_proj"].dense())
    assert torch.equal(
        state["model.layers.1.self_attn.q_proj.weight"], block.linears()["self_attn.qkv_proj"].dense()[:64]
    )
    assert float_tensors(config).keys() == state.keys()
