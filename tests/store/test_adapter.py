"""Adapters' directories opened, and the ways in which one can be wrong."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmquant.errors import CheckpointError
from glmquant.store.adapter import open_adapter
from glmquant.store.checkpoint import open_checkpoint, with_adapter
from tests.hints.follow import follows
from tests.support.adapters import edit, halves, merge, tiny_base, train, write_adapter

Q = "model.layers.0.self_attn.q_proj"
BOTH = halves(Q, 64, 64)
DOWN, UP = BOTH


def renamed(change: Callable[[str], str]) -> dict[str, Tensor]:
    return {change(name): tensor for name, tensor in BOTH.items()}


NAMES: dict[str, Callable[[str], str]] = {
    "as PEFT saves them": lambda name: f"base_model.model.{name}",
    "of a state dict, with the adapter's name": lambda name: (
        f"base_model.model.{name.replace('.weight', '.default.weight')}"
    ),
    "behind DataParallel": lambda name: f"module.base_model.model.{name}",
    "behind torch.compile": lambda name: f"_orig_mod.base_model.model.{name}",
    "compiled inside": lambda name: f"base_model.model._orig_mod.{name}",
    "without a prefix": lambda name: name,
}


@pytest.mark.parametrize("change", NAMES.values(), ids=NAMES)
def test_names_of_every_training_framework_are_known(change: Callable[[str], str], tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", BOTH)
    save_file(renamed(change), directory / "adapter_model.safetensors")
    (addition,) = open_adapter(directory).additions.values()
    assert addition.module == Q
    assert (addition.rank, addition.scale, addition.shape) == (4, 2.0, (64, 64))


@pytest.mark.parametrize("inside", ["", ".modules_to_save", ".modules_to_save.default", ".base_layer"])
def test_what_was_trained_as_a_whole_is_known_by_every_name(inside: str, tmp_path: Path) -> None:
    tensors = {f"lm_head{inside}.weight": torch.ones(160, 64), "lm_head.original_module.weight": torch.zeros(160, 64)}
    adapter = open_adapter(write_adapter(tmp_path / "a", tensors))
    assert list(adapter.copies) == ["lm_head.weight"]
    assert torch.equal(adapter.copies["lm_head.weight"].read(), torch.ones(160, 64))


def test_its_hash_is_that_of_the_file(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", BOTH)
    content = (directory / "adapter_model.safetensors").read_bytes()
    assert open_adapter(directory).sha256 == hashlib.sha256(content).hexdigest()


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", BOTH)
    (directory / "adapter_model.bin").write_bytes(b"not read")
    assert open_adapter(directory).weights.name == "adapter_model.safetensors"


def test_a_directory_of_a_training_has_the_adapter_beside_its_checkpoints(tmp_path: Path) -> None:
    """As LLaMA-Factory leaves it: tokenizer, logs and states of the optimizer are not looked at."""
    directory = write_adapter(tmp_path / "saves", BOTH)
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "README.md", "all_results.json"):
        (directory / name).write_bytes(b"{")
    write_adapter(directory / "checkpoint-500", BOTH)
    assert open_adapter(directory).path == directory


TENSORS: dict[str, tuple[dict[str, Tensor], str]] = {
    "A without B": ({DOWN: BOTH[DOWN]}, "has lora_A and no lora_B"),
    "B without A": ({UP: BOTH[UP]}, "has lora_B and no lora_A"),
    "half of an embedding": ({"e.lora_embedding_A": torch.ones(4, 9)}, "no lora_embedding_B"),
    "halves of two kinds": ({**BOTH, f"{Q}.lora_embedding_A": torch.ones(4, 64)}, "no lora_embedding_B"),
    "two ranks": ({DOWN: torch.ones(4, 64), UP: torch.ones(64, 3)}, r"\[64, 3\] and \[4, 64\]"),
    "a rank above the layer's size": ({DOWN: torch.ones(65, 64), UP: torch.ones(64, 65)}, "are "),
    "huggingface/peft#554 fused halves of PEFT 0.2": ({DOWN: BOTH[DOWN], UP: torch.ones(64, 4, 1)}, r"\[64, 4, 1\]"),
    "huggingface/peft#2500 ZeRO-3": ({DOWN: torch.ones(0), UP: torch.ones(0)}, r"shape \[0\].*ZeRO-3"),
    "Alpaca-CoT#111 443 bytes": ({}, "holds no tensors"),
    "two adapters": ({**BOTH, f"{Q}.lora_A.other.weight": torch.ones(4, 64)}, "both .*lora_A.*lora_A"),
    "vllm#6983 DoRA that the configuration does not tell": (
        {**BOTH, f"{Q}.lora_magnitude_vector": torch.ones(64)}, "has a lora_magnitude_vector, and use_dora is false",
    ),
    "whole numbers": ({DOWN: BOTH[DOWN].int(), UP: BOTH[UP]}, "torch.int32"),
    "a long name": ({"x" * 2000: torch.ones(1)}, "xxx"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "says"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_together_are_refused(tensors: dict[str, Tensor], says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        open_adapter(write_adapter(tmp_path / "a", tensors))


def test_values_that_are_not_finite_are_refused_as_they_are_read(tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in BOTH.items()}
    tensors[UP][3, 2] = float("nan")
    adapter = open_adapter(write_adapter(tmp_path / "a", tensors))
    with pytest.raises(CheckpointError, match=r"q_proj.lora_B.*NaN"):
        with_adapter(open_checkpoint(tiny_base(tmp_path / "base")), adapter).block(0)


def test_a_dora_adapter_without_magnitudes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no lora_magnitude_vector, and use_dora is true"):
        open_adapter(write_adapter(tmp_path / "a", BOTH, use_dora=True))
    short = {**BOTH, f"{Q}.lora_magnitude_vector": torch.ones(63)}
    with pytest.raises(CheckpointError, match=r"shape \[63\]"):
        open_adapter(write_adapter(tmp_path / "b", short, use_dora=True))
    embedding = {"e.lora_embedding_A": torch.ones(4, 9), "e.lora_embedding_B": torch.ones(6, 4)}
    with pytest.raises(CheckpointError, match="an embedding with DoRA"):
        open_adapter(
            write_adapter(tmp_path / "c", embedding | {"e.lora_magnitude_vector": torch.ones(6)}, use_dora=True)
        )


@follows("if lora_alpha is right, set r there to {}, or rank_pattern where ranks differ")
def test_the_hint_for_another_rank_works(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", BOTH, r=16)
    with pytest.raises(CheckpointError, match=r"is of rank 4, and adapter_config\.json says 16") as refused:
        open_adapter(adapter)
    assert "set r there to 4" in str(refused.value.hint)
    assert open_adapter(edit(adapter, r=4)).additions[Q].scale == 2.0
    assert open_adapter(edit(adapter, r=16, rank_pattern={"q_proj": 4})).additions[Q].scale == 2.0


@follows("set use_dora there to {}, if it is wrong")
def test_the_hint_for_a_magnitude_works(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = train(base, tmp_path / "a", use_dora=True)
    edit(adapter, use_dora=False)
    with pytest.raises(CheckpointError, match="use_dora is false") as refused:
        open_adapter(adapter)
    assert "set use_dora there to true" in str(refused.value.hint)
    assert open_adapter(edit(adapter, use_dora=True)).config.weight_decomposed


def lfs_pointer(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1018370\n")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def link_out(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("damage", [lfs_pointer, cut, link_out, pipe], ids=lambda damage: damage.__name__)
def test_damaged_files_are_one_clear_error(damage: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", BOTH)
    damage(directory / name)
    with pytest.raises(CheckpointError) as refused:
        open_adapter(directory)
    assert name in str(refused.value)


def test_an_lfs_pointer_is_named(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", BOTH)
    lfs_pointer(directory / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        open_adapter(directory)
    (directory / "adapter_model.safetensors").unlink()
    lfs_pointer(directory / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        open_adapter(directory)


def test_an_adapter_in_the_hubs_cache_is_read_through_its_links(tmp_path: Path) -> None:
    """As `hf download me/my-lora` leaves it, and prints the snapshot."""
    repository = tmp_path / "hub" / "models--me--my-lora"
    snapshot = repository / "snapshots" / "0123abc"
    written = write_adapter(tmp_path / "a", BOTH)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(written.iterdir())):
        path.rename(repository / "blobs" / (str(number) * 40))
        (snapshot / path.name).symlink_to(Path("../../blobs") / (str(number) * 40))
    adapter = open_adapter(snapshot)
    assert adapter.name == "my-lora"
    assert adapter.additions.keys() == {Q}
    with pytest.raises(CheckpointError) as refused:
        open_adapter(repository)
    assert str(refused.value.hint) == f"there is one in {snapshot}"
    with pytest.raises(CheckpointError) as absent:
        open_adapter("me/my-lora")
    assert "hf download me/my-lora" in str(absent.value.hint)


def test_a_directory_that_is_no_adapter_says_where_one_is(tmp_path: Path) -> None:
    """tloen/alpaca-lora#469, baichuan-inc/Baichuan2#145: the directory above, or the model itself, is given."""
    write_adapter(tmp_path / "out" / "checkpoint-500", BOTH)
    with pytest.raises(CheckpointError, match=r"no adapter_config.json") as above:
        open_adapter(tmp_path / "out")
    named = str(above.value.hint).removeprefix("there is one in ")
    assert open_adapter(named).additions.keys() == {Q}
    with pytest.raises(CheckpointError, match=r"no adapter_config.json") as whole:
        open_adapter(tiny_base(tmp_path / "base"))
    assert "give it as the model" in str(whole.value.hint)
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "absent", tmp_path / "out" / "checkpoint-500" / "adapter_config.json"):
        with pytest.raises(CheckpointError):
            open_adapter(wrong)
    shutil.copy(tmp_path / "out" / "checkpoint-500" / "adapter_config.json", tmp_path / "empty")
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_adapter(tmp_path / "empty")


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "huggingface/peft#578 IA3": ("IA3", {}),
    "LoHa": ("LOHA", {}),
    "ace-step/ACE-Step-1.5#521 LoKr": ("LOKR", {}),
    "AdaLoRA": ("ADALORA", {}),
    "OFT": ("OFT", {}),
    "VeRA": ("VERA", {}),
    "huggingface/peft#2595 prefix tuning": ("PREFIX_TUNING", {}),
    "P-tuning": ("P_TUNING", {}),
    "prompt tuning": ("PROMPT_TUNING", {}),
    "a kind of later years": ("NEW_KIND_2027", {}),
    "no text": (7, {}),  # type: ignore[dict-item]
}


@pytest.mark.parametrize(("kind", "fields"), KINDS.values(), ids=KINDS)
def test_what_is_not_lora_is_named(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"peft_type is .*{kind}") as refused:
        open_adapter(write_adapter(tmp_path / "a", BOTH, peft_type=kind, **fields))
    hint = str(refused.value.hint)
    assert kind == 7 or ("train a LoRA" in hint) == kind.startswith(("PREFIX", "P_", "PROMPT"))


@follows(
    "merge it into its base with PEFT (model.merge_and_unload()), save, and give that as the model", "_require_lora"
)
def test_the_hint_for_what_peft_can_merge_works(tmp_path: Path) -> None:
    from peft import LoHaConfig, get_peft_model

    from tests.support.adapters import model_of

    base = tiny_base(tmp_path / "base")
    config = LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False)
    get_peft_model(model_of(base), config).save_pretrained(tmp_path / "loha")
    with pytest.raises(CheckpointError, match="LOHA") as refused:
        open_adapter(tmp_path / "loha")
    assert "merge it into its base with PEFT" in str(refused.value.hint)
    merge(base, tmp_path / "loha").save_pretrained(tmp_path / "merged")
    assert open_checkpoint(tmp_path / "merged").config.num_hidden_layers == 2


SETTINGS: dict[str, dict[str, Any]] = {
    "huggingface/transformers#34468 PiSSA": {"init_lora_weights": "pissa"},
    "huggingface/peft#1929 PiSSA, quick": {"init_lora_weights": "pissa_niter_4"},
    "OLoRA": {"init_lora_weights": "olora"},
    "LoftQ": {"init_lora_weights": "loftq"},
    "LoRA-GA": {"init_lora_weights": "lora_ga"},
    "layers repeated": {"layer_replication": [[0, 2], [1, 3]]},
    "Megatron": {"megatron_config": {"tensor_model_parallel_size": 2}},
    "experts' parameters": {"target_parameters": ["mlp.experts.gate_up_proj"]},
    "single tokens": {"trainable_token_indices": [5, 6]},
    "activated LoRA": {"alora_invocation_tokens": [1, 2]},
    "PEFT 0.2": {"enable_lora": [True, False, True]},
    "QALoRA": {"use_qalora": True},
    "no rank": {"r": None},
    "rank 0": {"r": 0},
    "a huge rank": {"r": 10**9},
    "alpha a text": {"lora_alpha": "16"},
    "alpha beyond reason": {"lora_alpha": 1e30},
    "rank-stabilized a text": {"use_rslora": "yes"},
    "ranks a list": {"rank_pattern": [1]},
    "a rank of a half": {"rank_pattern": {"q_proj": 0.5}},
    "an alpha of a text": {"alpha_pattern": {"q_proj": "8"}},
    "a pattern that is none": {"alpha_pattern": {"(": 8}},
    "targets a number": {"target_modules": 5},
    "saved a list of numbers": {"modules_to_save": [5]},
    "base a number": {"base_model_name_or_path": 5},
}


@pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS)
def test_settings_that_no_merged_weight_can_follow_are_named(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        open_adapter(write_adapter(tmp_path / "a", BOTH, **fields))
    assert next(iter(fields)) in str(refused.value)
    assert "adapter_config.json" in str(refused.value.where)


@follows("save it with PEFT as save_pretrained(…, path_initial_model_for_weight_conversion=…): that is plain LoRA")
def test_the_hint_for_pissa_works(tmp_path: Path) -> None:
    """The adapter on the published base alone is another model; converted, it is the trained one."""
    from peft import LoraConfig, get_peft_model

    from tests.store.test_adapted import assert_merged
    from tests.support.adapters import model_of

    base = tiny_base(tmp_path / "base")
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(model_of(base), LoraConfig(init_lora_weights="pissa", **options))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "as-is")
    with pytest.raises(CheckpointError, match="pissa") as refused:
        open_adapter(tmp_path / "as-is")
    assert "path_initial_model_for_weight_conversion" in str(refused.value.hint)
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "start")
    merged = with_adapter(open_checkpoint(base), open_adapter(tmp_path / "converted"))
    assert_merged(merged, model.merge_and_unload())


ODD_BUT_HONEST: dict[str, dict[str, Any]] = {
    "an alpha below 1": {"lora_alpha": 0.5},
    "no alpha, which is 8 in PEFT": {"lora_alpha": None},
    "a negative alpha": {"lora_alpha": -4},
    "no kind": {"peft_type": None},
    "kind in small letters": {"peft_type": "lora"},
    "fields of later years": {"new_option": None, "auto_mapping": {"unsloth_fixed": True}, "peft_version": "0.30"},
    "what only concerned training": {
        "init_lora_weights": "gaussian", "lora_dropout": 0.1, "layers_to_transform": [0], "loftq_config": {},
        "megatron_core": "megatron.core", "inference_mode": True, "revision": "main", "qalora_group_size": 16,
    },
}  # fmt: skip


@pytest.mark.parametrize("fields", ODD_BUT_HONEST.values(), ids=ODD_BUT_HONEST)
def test_unusual_but_honest_configurations_are_read(fields: dict[str, Any], tmp_path: Path) -> None:
    adapter = open_adapter(write_adapter(tmp_path / "a", BOTH, **fields))
    assert adapter.additions[Q].scale == (fields.get("lora_alpha") or 8) / 4


def test_no_code_of_an_adapter_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    directory = write_adapter(tmp_path / "a", BOTH)
    (directory / "adapter_model.safetensors").unlink()
    torch.save({f"base_model.model.{DOWN}": Evil()}, directory / "adapter_model.bin")
    with pytest.raises(CheckpointError):
        open_adapter(directory)
    assert not (tmp_path / "executed").exists()


def test_a_large_adapter_costs_nothing_until_it_is_read(tmp_path: Path) -> None:
    """A file that claims more than the disk holds is sparse: only its header is read to open it."""
    directory = write_adapter(tmp_path / "a", BOTH)
    shape = [1 << 20, 1 << 14]
    header = json.dumps({f"{Q}.lora_B.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 1 << 36]}}).encode()
    with (directory / "adapter_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 36))
    with pytest.raises(CheckpointError, match="no lora_A"):
        open_adapter(directory)


def test_a_file_of_the_state_dict_is_merged_as_the_saved_one(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    saved = train(base, tmp_path / "saved")
    raw = write_adapter(tmp_path / "raw", {}, r=4)
    tensors = load_file(saved / "adapter_model.safetensors")
    save_file(
        {name.replace(".weight", ".default.weight"): t for name, t in tensors.items()},
        raw / "adapter_model.safetensors",
    )
    blocks = [with_adapter(open_checkpoint(base), open_adapter(each)).block(1).linears() for each in (saved, raw)]
    assert all(torch.equal(one.dense(), blocks[1][name].dense()) for name, one in blocks[0].items())
