"""Hints on checkpoints: what was given, and what it is once the hint is followed."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from glmquant.data.calibration import CalibrationSet
from glmquant.errors import GlmQuantError
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store import manifest
from glmquant.store.adapter import open_adapter
from glmquant.store.adapter_config import ADAPTER_CONFIG
from glmquant.store.calibration import read_calibration, write_calibration
from glmquant.store.checkpoint import Checkpoint, open_checkpoint, with_adapter
from glmquant.store.gptq import require_whole_words
from glmquant.store.gptq_config import read_gptq_format
from glmquant.store.manifest import read_manifest
from glmquant.store.output import output_directory, require_room
from glmquant.store.safetensors_file import read_safetensors, write_safetensors
from tests.hints.follow import follows, met_errors, named, refused
from tests.hints.places import Hint
from tests.store.test_adapter import BOTH, DOWN, UP, Q
from tests.store.test_calibration import calibration, describe, truncate, unsealed
from tests.store.test_diagnosis import LORA, PREFIX, lora_inside
from tests.store.test_manifest import written
from tests.store.test_quantized_checkpoints import published, row_quantized
from tests.store.test_quantized_checkpoints import write as write_published
from tests.store.test_recognize import adapter, folder, touch
from tests.store.test_state_dict import optimizer
from tests.store.test_torch_bin import RunsCommand, archive, pickled_tensor
from tests.support.adapters import halves, tiny_base, write_adapter
from tests.support.checkpoints import float_tensors, tiny_config
from tests.support.handed import assert_same_model, edit, plain, saved, weights, without_weights
from tests.support.hub import Hub
from tests.support.paths import CHATGLM2

DOWNLOAD_FILE = "download the file again, completely"
DOWNLOAD = "download the checkpoint again, completely"
MERGE_FIRST = "merge it into its base with PEFT (model.merge_and_unload()), save, and give that as the model"
MOVE_OTHERS = "move away the files that are not this model's; an index (*.index.json) tells which are"
FROM_TRAINER = "give the directory that the trainer saved the model to; the optimizer serves to train on alone"
SHARD = "pytorch_model-00001-of-00002.bin"
INDEX = "pytorch_model.bin.index.json"
Spoil = Callable[[Path], object]


def whole(directory: Path) -> Checkpoint:
    """Every tensor is read and is the publisher's."""
    checkpoint = open_checkpoint(directory)
    assert_same_model(checkpoint, open_checkpoint(CHATGLM2))
    return checkpoint


def cut(name: str, size: int) -> Spoil:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:size])


def flipped(name: str) -> Spoil:
    """A bit of a tensor."""

    def spoil(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        content[len(content) // 2] ^= 1
        (directory / name).write_bytes(content)

    return spoil


def lost(*names: str) -> Spoil:
    return lambda directory: [(directory / name).unlink() for name in names]


def replaced(name: str, content: bytes) -> Spoil:
    return lambda directory: (directory / name).write_bytes(content)


def as_safetensors(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(directory: Path) -> None:
        save_file(weights(), directory / "model.safetensors")
        path = directory / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def broken_value(directory: Path) -> None:
    tensors = weights()
    tensors["transformer.encoder.final_layernorm.weight"][3] = float("nan")
    save_file(tensors, directory / "model.safetensors")


def another_home(directory: Path) -> None:
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], SHARD)
    (directory / INDEX).write_text(json.dumps(index))


def without_a_tensor(directory: Path) -> None:
    left = {name: tensor for name, tensor in weights().items() if "final_layernorm" not in name}
    save_file(left, directory / "model.safetensors")


def beyond(directory: Path) -> None:
    archive(directory, pickled_tensor(), **{"data/0": b"1234"})


SPOILED: dict[str, tuple[Hint, Spoil]] = {
    "cut in the header": (named(DOWNLOAD_FILE, "_header_of"), as_safetensors(lambda content: content[:100])),
    "cut at the end": (named(DOWNLOAD_FILE, "_require_gapless"), as_safetensors(lambda content: content[:-9])),
    "a value that is none": (
        named("download the file again; if it is the same, the checkpoint itself is broken"), broken_value,
    ),
    "a bit flipped": (named(DOWNLOAD_FILE, "_compare"), flipped(SHARD)),
    "a pickle cut": (named(DOWNLOAD_FILE, "_damaged"), cut(SHARD, 1000)),
    "an empty file": (named(DOWNLOAD_FILE, "_refuse_other_formats"), cut(SHARD, 0)),
    "a tensor beyond the end": (named(DOWNLOAD_FILE, "reject_beyond_file"), beyond),
    "a tensor left out": (
        named("download the checkpoint again, completely, and see that config.json belongs to it"), without_a_tensor,
    ),
    "no shards": (named(DOWNLOAD, "_refuse_missing"), lost(SHARD, SHARD.replace("00001", "00002", 1))),
    "no weights": (
        named(DOWNLOAD, "without_weights"), lost(SHARD, SHARD.replace("00001", "00002", 1), INDEX),
    ),
    "an index of other shards": (
        named("download the checkpoint again, completely; its index and its shards do not fit together"), another_home,
    ),
    "no config.json": (
        named("give the directory that holds config.json and the weights"), lost("config.json"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED.values(), ids=SPOILED)
def test_another_download_is_read(tmp_path: Path, case: tuple[Hint, Spoil]) -> None:
    hint, spoil = case
    directory = plain(tmp_path / "c")
    spoil(directory)
    with met_errors() as met:
        refused(lambda: whole(directory))
    assert any(each.is_of(hint) for each in met), met
    shutil.rmtree(directory)
    whole(plain(directory))


@follows(DOWNLOAD_FILE, "_fill")
def test_a_file_cut_while_it_is_read_is_downloaded_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": torch.ones(100)})
    content, tensor = path.read_bytes(), read_safetensors(path)["w"]
    path.write_bytes(content[:-9])
    refused(tensor.read)
    path.write_bytes(content)
    assert tensor.read().sum() == 100


@follows("give the BF16 model that it was made from; a repository's name is usually the same without -FP8")
def test_the_bf16_model_is_read(tmp_path: Path) -> None:
    for name, dtype in (("fp8", torch.float8_e4m3fn), ("bf16", torch.bfloat16)):
        save_file({"w": torch.ones(2).to(dtype)}, tmp_path / name)
    refused(lambda: read_safetensors(tmp_path / "fp8"))
    assert read_safetensors(tmp_path / "bf16")["w"].read().sum() == 2


@follows("fetch the file again", "row_quantized")
def test_rows_with_scales_that_mean_something_are_read(tmp_path: Path) -> None:
    tensors = row_quantized(published(), 8)
    name = next(name for name in tensors if name.endswith("weight_scale"))
    broken = write_published(tmp_path / "broken", tensors | {name: -tensors[name]}, quantization_bit=8)
    refused(lambda: open_checkpoint(broken).block(0))
    right = open_checkpoint(write_published(tmp_path / "right", tensors, quantization_bit=8))
    assert right.block(0)


def peft_merged(directory: Path) -> Path:
    return saved(directory, weights())


Given = Callable[[Path], Path]
"""Makes what is given, and gives its path."""

BESIDE: dict[str, tuple[Hint, Given, Given]] = {
    "LoRA among weights": (
        named("save what PEFT's model.merge_and_unload() gives"), lambda d: saved(d / "c", lora_inside()),
        lambda d: peft_merged(d / "merged"),
    ),
    "a prefix": (
        named("give the base model, whose weights P-Tuning leaves as they are; or train with LoRA, which can be put into them"),
        lambda d: saved(d / "c", weights() | PREFIX), lambda d: plain(d / "base"),
    ),
    "bitsandbytes": (
        named("give the float checkpoint, or save what transformers' model.dequantize() gives"),
        lambda d: saved(d / "c", weights() | {"transformer.encoder.layers.0.mlp.dense_h_to_4h.SCB": torch.zeros(8)}),
        lambda d: saved(d / "dequantized", weights()),
    ),
    "an optimizer's tensors": (
        named("give the directory that the trainer saved the model to", "diagnosis"),
        lambda d: saved(d / "c", {"layers.0.exp_avg": torch.zeros(3)}), lambda d: plain(d / "model"),
    ),
    "names of another model": (
        named("see that {} belongs to these weights: its model_type says how they are called"),
        lambda d: saved(d / "c", float_tensors(tiny_config())), lambda d: plain(d / "its own"),
    ),
    "placeholders": (
        named("put the ranks together with `python zero_to_fp32.py . OUT` in the directory DeepSpeed saved to, or save again with stage3_gather_16bit_weights_on_model_save"),
        lambda d: saved(d / "c", {name: torch.empty(0) for name in weights()}), lambda d: saved(d / "gathered", weights()),
    ),
    "a value head alone": (
        named("give the model that it was trained on"), lambda d: made(d / "c", touch("value_head.safetensors")),
        lambda d: plain(d / "model"),
    ),
    "GGUF": (
        named("give the checkpoint it was converted from, in safetensors or PyTorch's format"),
        lambda d: made(d / "c", touch("glm.Q4_K_M.gguf")), lambda d: plain(d / "model"),
    ),
    "an optimizer's state in a directory": (
        named(FROM_TRAINER, "store.recognize:"), lambda d: made(d / "c", touch("optimizer.pt")),
        lambda d: plain(d / "model"),
    ),
    "an optimizer's state in a file": (
        named(FROM_TRAINER, "state_dict"), lambda d: saved(d / "c", optimizer().state_dict()), lambda d: plain(d / "model"),
    ),
    "TensorFlow's weights": (
        named("save them for PyTorch first: in transformers 4, AutoModelForCausalLM.from_pretrained({text}, from_tf=True or from_flax=True), then save_pretrained"),
        lambda d: made(d / "c", touch("tf_model.h5")), lambda d: saved(d / "saved", weights()),
    ),
    "ZeRO": (
        named("put them together with `python zero_to_fp32.py . OUT` in {directory} (the script lies there, or in deepspeed/utils), copy config.json and the tokenizer's files to OUT, and give OUT"),
        lambda d: made(d / "c", touch("zero_pp_rank_0_mp_rank_00_model_states.pt")), lambda d: saved(d / "OUT", weights()),
    ),
    "what PEFT trained otherwise": (
        named("give the base model{} alone: of PEFT's methods only LoRA can be put into the weights"),
        lambda d: made(d / "c", adapter(peft_type="PROMPT_TUNING")), lambda d: plain(d / "base"),
    ),
    "a file beside config.json": (
        named("give its directory, {}", "_not_a_directory"), lambda d: plain(d / "c") / "config.json", lambda d: d / "c",
    ),
    "a file elsewhere": (
        named("give the directory that holds config.json", "recognize"),
        lambda d: made(d / "c", touch("x.bin")) / "x.bin", lambda d: plain(d / "model"),
    ),
    "code in a pickle": (
        named("use the checkpoint's safetensors files, or a source you trust"),
        lambda d: saved(d / "c", {"payload": RunsCommand("true")}),
        lambda d: with_safetensors(without_weights(d / "model")),
    ),
    "a whole model object": (
        named("it holds a whole model object: where you trust it, save `model.state_dict()` in its place"),
        lambda d: saved(d / "c", nn.Linear(2, 2)), lambda d: saved(d / "again", weights()),
    ),
    "no tensors": (
        named("where you trust the file, save its tensors alone: torch.save(model.state_dict(), path)"),
        lambda d: saved(d / "c", {"epoch": 3}), lambda d: saved(d / "again", weights()),
    ),
    "ranks": (
        named("merge the ranks with the software that trained the model, saving with save_pretrained, and give that"),
        lambda d: made(saved(d / "c", weights(), "consolidated.00.pth"), touch("consolidated.01.pth")),
        lambda d: saved(d / "merged", weights()),
    ),
    "two files with one tensor": (
        named(MOVE_OTHERS, "_merge"), lambda d: twice(d / "c"), lambda d: moved(d / "c" / "b.pt").parent,
    ),
    "tensors that are not rows": (
        named("save the checkpoint again with every tensor made .contiguous()"),
        lambda d: saved(d / "c", {name: columns(tensor) for name, tensor in weights().items()}),
        lambda d: saved(d / "again", {name: columns(tensor).contiguous() for name, tensor in weights().items()}),
    ),
}  # fmt: skip


def made(directory: Path, make: Callable[[Path], object]) -> Path:
    directory.mkdir(exist_ok=True)
    make(directory)
    return directory


def with_safetensors(directory: Path) -> Path:
    save_file(weights(), directory / "model.safetensors")
    return directory


def twice(directory: Path) -> Path:
    saved(directory, weights(), "a.pt")
    torch.save(weights(), directory / "b.pt")
    return directory


def moved(path: Path) -> Path:
    path.rename(path.parent.parent / "away")
    return path


def columns(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, laid out column by column."""
    return tensor.T.contiguous().T if tensor.dim() == 2 else tensor


@pytest.mark.parametrize("case", BESIDE.values(), ids=BESIDE)
def test_what_the_hint_says_to_give_is_read(tmp_path: Path, case: tuple[Hint, Given, Given]) -> None:
    hint, wrong, right = case
    given = wrong(tmp_path)
    with met_errors() as met:
        refused(lambda: open_checkpoint(given))
    assert any(each.is_of(hint) for each in met), met
    whole(right(tmp_path))


@follows("convert a checkpoint you trust: torch.save(torch.load(path, weights_only=True), path)")
def test_the_old_format_is_converted_as_told(tmp_path: Path) -> None:
    directory = saved(tmp_path / "c", weights(), _use_new_zipfile_serialization=False)
    error = refused(lambda: open_checkpoint(directory))
    eval(str(error.hint).partition(": ")[2], {"torch": torch, "path": directory / "pytorch_model.bin"})
    whole(directory)


@follows(
    "put it together with `accelerate merge-weights {quoted}/pytorch_model_fsdp_0 OUT`, copy config.json and the tokenizer's files to OUT, and give OUT"
)
def test_accelerate_puts_shards_of_fsdp_together(tmp_path: Path) -> None:
    import shlex

    from accelerate.commands.merge import merge_command, merge_command_parser
    from torch.distributed import checkpoint as distributed

    directory, out = without_weights(tmp_path / "my run"), tmp_path / "OUT"
    writer = distributed.FileSystemWriter(directory / "pytorch_model_fsdp_0")
    distributed.save({"model": weights()}, storage_writer=writer, no_dist=True)
    hint = str(refused(lambda: open_checkpoint(directory)).hint)
    command = hint.partition("`")[2].partition("`")[0].replace("OUT", shlex.quote(str(out)))
    merge_command(merge_command_parser().parse_args(shlex.split(command)[2:]))
    for file in directory.iterdir():
        if file.is_file():
            shutil.copy(file, out)
    whole(out)


Way = Callable[[GlmQuantError, Path], object]


@pytest.mark.parametrize(
    ("hint", "given"),
    [
        (named("<did_you_mean>", "existing_directory"), "modle"),
        (named("did you mean {}? It has a config.json", "without_config"), "model/runs"),
        (named("did you mean {}{}?", "without_config"), "."),
        (named("did you mean {}{}?", "without_weights"), "outer"),
    ],
    ids=str,
)
def test_the_directory_that_is_meant_is_read(tmp_path: Path, hint: Hint, given: str) -> None:
    plain(tmp_path / "model")
    made(tmp_path / "model" / "runs", touch("log.txt"))
    plain(without_weights(tmp_path / "outer") / "checkpoint-500")
    with met_errors() as met:
        error = refused(lambda: open_checkpoint(tmp_path / given))
    assert any(each.is_of(hint) for each in met), met
    meant = str(error.hint).removeprefix("did you mean ").partition("?")[0].partition(" or ")[0]
    whole(Path(meant))


@follows("give {}, or {}", "_run")
@follows("give {}", "recognize:_run")
def test_the_parts_of_a_run_are_taken(tmp_path: Path) -> None:
    run = made(tmp_path / "run", folder("onnx", "report"))
    bundle = str(refused(lambda: open_checkpoint(run)).hint).removeprefix("give ").partition(", where")[0]
    assert Path(bundle) == run / "onnx"
    plain(run / "quantized")
    hint = str(refused(lambda: open_checkpoint(run)).hint)
    whole(Path(hint.removeprefix("give ").partition(", or")[0]))


@follows(
    "`quantize` and `export` take it as `calibration`; give the checkpoint it was made from beside it", "recognize"
)
def test_a_calibration_is_taken_beside_its_checkpoint(tmp_path: Path) -> None:
    model = open_checkpoint(CHATGLM2)
    tokens = torch.randint(0, 2000, (2, 16), generator=torch.Generator().manual_seed(0))
    given = made(
        tmp_path / "calibration",
        lambda d: write_calibration(
            replace(calibration(), samples=CalibrationSet(tokens, (), model.tokenizer.sha256, 0)), d
        ),
    )
    refused(lambda: open_checkpoint(given))
    rule = {"match": "layers.0.*", "spec": {"bits": 4, "group_size": 32}, "method": {"kind": "gptq"}}
    plan = make_plan(load_recipe(None, {"rules": [rule]}), model.config)
    (tmp_path / "out").mkdir()
    assert quantize(model, plan, read_calibration(given).samples, tmp_path / "out")


@follows("give the base model{} and this directory as `adapter`")
@follows("save it with PEFT's save_pretrained, then give the base model, and that directory as `adapter`")
def test_an_adapter_goes_with_its_base(tmp_path: Path) -> None:
    base = open_checkpoint(tiny_base(tmp_path / "base"))
    given = write_adapter(tmp_path / "a", BOTH)
    refused(lambda: open_checkpoint(given), "and this directory as `adapter`")
    assert with_adapter(base, open_adapter(given)).block(0)
    (tmp_path / "a" / ADAPTER_CONFIG).unlink()
    refused(lambda: open_checkpoint(given), "save_pretrained")
    assert with_adapter(base, open_adapter(write_adapter(tmp_path / "saved", BOTH))).block(0)


@follows("give the base model, and as `adapter` the directory that PEFT saved, with its adapter_config.json")
def test_an_adapter_in_the_place_of_weights_goes_with_its_base(tmp_path: Path) -> None:
    refused(lambda: open_checkpoint(saved(tmp_path / "c", LORA)))
    module = "transformer.encoder.layers.0.self_attention.query_key_value"
    base = plain(tmp_path / "base")
    rows, size = weights()[f"{module}.weight"].shape
    given = write_adapter(tmp_path / "a", halves(module, rows, size), target_modules=["query_key_value"])
    assert with_adapter(open_checkpoint(base), open_adapter(given)).block(0)


ADAPTERS: dict[str, tuple[Hint, dict[str, Any], dict[str, Any]]] = {
    "half of it": (
        named("the file is incomplete: copy the adapter again, or give one of another checkpoint of its training"),
        {"tensors": {DOWN: BOTH[DOWN]}}, {},
    ),
    "no tensors": (
        named("give the adapter of one of the training's checkpoints, if that holds some"), {"tensors": {}}, {},
    ),
    "two adapters": (
        named("save one adapter in a directory: save_pretrained(…, selected_adapters=[…])"),
        {"tensors": {**BOTH, f"{Q}.lora_A.other.weight": torch.ones(4, 64)}}, {},
    ),
    "placeholders": (
        named("save the adapter with stage3_gather_16bit_weights_on_model_save, or make it of the training's checkpoint with DeepSpeed's zero_to_fp32.py"),
        {"tensors": {DOWN: torch.ones(0), UP: torch.ones(0)}}, {},
    ),
    "learned vectors": (
        named("train a LoRA adapter instead, or give a model that was trained as a whole"),
        {"tensors": BOTH, "peft_type": "PROMPT_TUNING"}, {},
    ),
    "a pattern of look-around": (
        named("write out the names it stands for"), {"tensors": BOTH, "rank_pattern": {"(?=q)q_proj": 4}},
        {"rank_pattern": {"q_proj": 4}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_saved_as_told_is_read(tmp_path: Path, case: tuple[Hint, dict[str, Any], dict[str, Any]]) -> None:
    hint, wrong, right = case
    given = write_adapter(tmp_path / "a", **wrong)
    with met_errors() as met:
        refused(lambda: open_adapter(given))
    assert any(each.is_of(hint) for each in met), met
    assert open_adapter(write_adapter(tmp_path / "again", BOTH, **right)).additions.keys() == {Q}


@follows("download or copy the adapter again, completely")
@follows("there is one in {}")
@follows("there is one in {}, and in {} beside it")
@follows("give the directory that the training saved its adapter to")
def test_the_adapters_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    refused(lambda: open_adapter(tmp_path / "out"), "saved its adapter to")
    for step in (1, 2):
        write_adapter(tmp_path / "out" / f"checkpoint-{step}", BOTH)
        hint = str(refused(lambda: open_adapter(tmp_path / "out")).hint)
        named_one = Path(hint.removeprefix("there is one in ").partition(", and")[0])
        assert open_adapter(named_one).additions
    (named_one / "adapter_model.safetensors").unlink()
    refused(lambda: open_adapter(named_one), "copy the adapter again")
    assert open_adapter(write_adapter(named_one, BOTH)).additions


@follows("it holds a config.json, as a whole model does: give it as the model, without an adapter")
def test_a_model_in_the_adapters_place_is_the_model() -> None:
    refused(lambda: open_adapter(CHATGLM2))
    whole(CHATGLM2)


@follows("`hf download {}` says where it puts it: give that")
def test_an_adapter_of_the_hub_is_downloaded(tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.hints.commands import commands, hub_command
    from tests.support.hub import Repository

    hub.repositories["me/my-lora"] = Repository.of(write_adapter(tmp_path / "a", BOTH))
    (command,) = commands(refused(lambda: open_adapter("me/my-lora")).hint)
    hub_command(f"{command} --cache-dir {tmp_path / 'cache'}")
    printed = capsys.readouterr().out.strip().rpartition("path: ")[2].split("\n")[-1]
    assert open_adapter(printed).additions


@follows(MERGE_FIRST, "read_adapter_config")
@follows(MERGE_FIRST, "_check_magnitude")
@follows(MERGE_FIRST, "_require_both")
def test_what_cannot_be_merged_here_is_merged_by_peft(tmp_path: Path) -> None:
    embedding = {
        "e.lora_embedding_A": torch.ones(4, 9),
        "e.lora_embedding_B": torch.ones(6, 4),
        "e.lora_magnitude_vector": torch.ones(6),
    }
    for number, given in enumerate(
        (
            {"tensors": BOTH, "trainable_token_indices": [3]},
            {"tensors": embedding, "use_dora": True},
            {"tensors": {DOWN: BOTH[DOWN], UP: torch.ones(64, 4, 1)}},
        )
    ):
        path = write_adapter(tmp_path / f"a{number}", **given)
        refused(lambda path=path: open_adapter(path), MERGE_FIRST)
    whole(peft_merged(tmp_path / "merged"))


@follows("give the model it was trained on: adapter_config.json names {}")
@follows("see that the adapter belongs to this model, and that its training did not diverge")
@follows("give the float model that the adapter was trained on, and quantize with the `adapter`")
def test_an_adapter_fits_the_model_it_was_trained_on(tmp_path: Path) -> None:
    base = open_checkpoint(tiny_base(tmp_path / "base", dtype="float16"))
    right = open_adapter(write_adapter(tmp_path / "right", BOTH, base_model_name_or_path=str(base.path)))
    other = open_checkpoint(CHATGLM2)
    error = refused(lambda: with_adapter(other, right))
    assert with_adapter(open_checkpoint(str(error.hint).rpartition("names ")[2].strip("'")), right).block(0)
    diverged = open_adapter(write_adapter(tmp_path / "diverged", {name: 1e5 * each for name, each in BOTH.items()}))
    refused(lambda: with_adapter(base, diverged).block(0), "did not diverge")
    adapted = with_adapter(base, right)
    refused(lambda: with_adapter(adapted, right), "give the float model")
    assert adapted.block(0)


def cut_without_hashes(directory: Path) -> None:
    describe(format=2)(directory)
    unsealed(directory)
    truncate(directory)


CALIBRATIONS: dict[str, tuple[Hint, Spoil]] = {
    "no description": (named("calibrate first", "store"), lost("calibration.json")),
    "a damaged description": (named("calibrate again", "_read_description"), describe(seed="x")),
    "damaged tensors": (named("calibrate again", "_require_what_was_written"), truncate),
    "damaged tensors of an earlier release": (named("calibrate again", "_read_tensors"), cut_without_hashes),
    "other tokens": (named("calibrate again", "_samples"), describe(sha256="0" * 64)),
}


@pytest.mark.parametrize("case", CALIBRATIONS.values(), ids=CALIBRATIONS)
def test_another_calibration_is_read(tmp_path: Path, case: tuple[Hint, Spoil]) -> None:
    hint, spoil = case
    write_calibration(calibration(), tmp_path)
    spoil(tmp_path)
    with met_errors() as met:
        refused(lambda: read_calibration(tmp_path))
    assert any(each.is_of(hint) for each in met), met
    write_calibration(calibration(), tmp_path)
    assert read_calibration(tmp_path)


@follows("classify with it, or give the language model it was trained from")
@follows("train a classifier from it first")
def test_each_model_has_its_own_head(tmp_path: Path) -> None:
    model = whole(plain(tmp_path / "model"))
    refused(model.classification_head)
    head = {"classifier_head.weight": torch.ones(2, 128), "classifier_head.bias": torch.ones(2)}
    classifier = open_checkpoint(saved(tmp_path / "classifier", weights() | head))
    refused(classifier.lm_head)
    assert classifier.classification_head()
    assert model.lm_head()


@follows("quantize it to more bits, or keep it float with a rule that matches {}")
def test_shapes_that_do_not_fill_words_have_more_bits_or_stay_float() -> None:
    name = "layers.0.self_attn.o_proj"
    refused(lambda: require_whole_words(name, 12, 64, 4), f"matches {name}")
    require_whole_words(name, 12, 64, 8)
    keeping = [{"match": name, "keep": True}, {"match": "layers.*", "spec": {"bits": 4, "group_size": 32}}]
    assert make_plan(load_recipe(None, {"rules": keeping}), tiny_config())[name].spec is None


@follows("save it from AutoRound with format='auto_round:auto_gptq'")
@follows("start from the float checkpoint", "read_gptq_format")
def test_formats_that_are_read(tmp_path: Path) -> None:
    def of(**section: object) -> object:
        edit(
            plain(
                tmp_path / str(len(list(tmp_path.iterdir()))),
            ),
            quantization_config=section,
        )
        directory = max(tmp_path.iterdir(), key=lambda path: int(path.name))
        return read_gptq_format(directory, json.loads((directory / "config.json").read_text()))

    refused(lambda: of(quant_method="awq"))
    refused(lambda: of(quant_method="auto-round", packing_format="auto_round:auto_awq"))
    assert of(quant_method="auto-round", packing_format="auto_round:auto_gptq")
    whole(plain(tmp_path / "99"))


@follows("a later release of glmquant writes later versions; else quantize the model again")
def test_a_manifest_of_this_release_is_read(tmp_path: Path) -> None:
    refused(lambda: read_manifest(written(tmp_path, format_version=manifest.FORMAT_VERSION + 1)))
    assert read_manifest(written(tmp_path))


@follows("move it away, or choose another directory", "_prepare")
@follows("choose another directory", "output_directory")
@follows("choose another directory", "require_free")
def test_another_output_is_written(tmp_path: Path) -> None:
    def write(name: str) -> None:
        with output_directory(tmp_path / name) as partial:
            (partial / "a").write_text("x")

    (tmp_path / "file").write_text("x")
    refused(lambda: write("file/out"))
    write("out")
    refused(lambda: write("out"), "choose another directory")
    made(tmp_path / "other.partial", touch("mine"))
    refused(lambda: write("other"), "move it away")
    (tmp_path / "other.partial").rename(tmp_path / "mine")
    write("other")


@follows("free some space; {}")
@pytest.mark.parametrize("resume_key", [None, "key"])
def test_with_space_the_same_command_ends(tmp_path: Path, resume_key: str | None) -> None:
    def write(full: bool) -> bool:
        with output_directory(tmp_path / "out", resume_key=resume_key) as partial:
            resumes = (partial / "first").exists()
            (partial / "first").write_text("1")
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
        return resumes

    hint = str(refused(lambda: write(full=True)).hint)
    assert write(full=False) == ("resumes from there" in hint) == (resume_key is not None)


@follows("free some space, or choose a directory on another disk")
def test_a_disk_with_room_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {tmp_path / "small": 10, tmp_path / "large": 1000}
    for path in free:
        path.mkdir()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free[Path(path)]))
    refused(lambda: require_room(tmp_path / "small", 100))
    require_room(tmp_path / "large", 100)
    free[tmp_path / "small"] = 1000
    require_room(tmp_path / "small", 100)
