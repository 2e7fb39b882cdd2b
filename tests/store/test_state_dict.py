"""The state dict inside what a trainer saved: found where it is the only one, refused where it is not."""

import argparse
import collections
import logging
import pickle
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from glmquant.errors import CheckpointError
from glmquant.store.torch_bin import read_torch_bin
from tests.hints.follow import follows
from tests.store.test_torch_bin import archive

MODEL = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "b.weight": torch.zeros(3)}


def optimizer() -> torch.optim.Optimizer:
    layer = nn.Linear(3, 2)
    adam = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    adam.step()
    return adam


DEEPSPEED = {
    "module": collections.OrderedDict(MODEL),
    "buffer_names": [],
    "optimizer": None,
    "param_shapes": [collections.OrderedDict((name, tensor.shape) for name, tensor in MODEL.items())],
    "frozen_param_shapes": None,
    "lr_scheduler": {"last_batch_iteration": 3, "min_lrs": [0.0]},
    "sparse_tensor_module_names": set(),
    "skipped_steps": 0,
    "global_samples": 640,
    "dp_world_size": 1,
    "mp_world_size": 1,
    "ds_config": {"zero_optimization": {"stage": 0}, "train_batch_size": 64},
    "ds_version": "0.14.4",
}

FORMS: dict[str, Any] = {
    "THUDM/GLM#147, module": {"module": MODEL, "epoch": 3},
    "state_dict": {"state_dict": MODEL},
    "model": {"model": MODEL, "optimizer": optimizer().state_dict(), "step": 7, "best": None},
    "nayeemrizve/OpenLDN#5, optimizer and best": {
        "state_dict": MODEL, "best_acc": np.float64(0.5), "optimizer": optimizer().state_dict(),
    },
    "GLM-130B#47, DeepSpeed": DEEPSPEED,
    "two levels": {"model": {"state_dict": MODEL}},
    "under another name": {"generator": MODEL, "iteration": 5},
    "Lightning": {
        "epoch": 1,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": MODEL,
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.3)}},
        "optimizer_states": [optimizer().state_dict()],
        "hyper_parameters": argparse.Namespace(lr=1e-4, out=PosixPath("/tmp/x"), dtype=torch.float16),
    },
    "Megatron's arguments": {"args": argparse.Namespace(layers=2), "model": MODEL, "rng_state": [{"np": np.zeros(2)}]},
    "a count beside the tensors": {**MODEL, "epoch": 3, "name": "x", "none": None},
    "defaultdict beside": {"model": MODEL, "log": collections.defaultdict(list, loss=[1.0])},
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", FORMS.values(), ids=FORMS.keys())
def test_the_only_state_dict_is_found(tmp_path: Path, value: Any, protocol: int) -> None:
    path = tmp_path / "model.pt"
    torch.save(value, path, pickle_protocol=protocol)
    stored = read_torch_bin(path)
    assert {name: tensor.read().tolist() for name, tensor in stored.items()} == {
        name: tensor.tolist() for name, tensor in MODEL.items()
    }


def test_what_is_left_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"state_dict": MODEL, "epoch": 3}, tmp_path / "model.pt")
    with caplog.at_level(logging.INFO, "glmquant"):
        read_torch_bin(tmp_path / "model.pt")
    assert "the weights are its entry ['state_dict']" in caplog.text


SEVERAL = {
    "sming256/OpenTAD#44": {"state_dict": MODEL, "state_dict_ema": {f"module.{n}": t for n, t in MODEL.items()}},
    "generator and critic": {"actor": MODEL, "critic": {**MODEL, "v": torch.ones(1)}},
}


@pytest.mark.parametrize("value", SEVERAL.values(), ids=SEVERAL.keys())
@follows("save the one you mean alone: torch.save(torch.load(path, weights_only=True){}, 'pytorch_model.bin')")
def test_several_are_named_and_the_advice_makes_one_of_them(
    tmp_path: Path, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    torch.save(value, path)
    with pytest.raises(CheckpointError, match="holds 2 state dicts") as caught:
        read_torch_bin(path)
    monkeypatch.chdir(tmp_path)
    advice = str(caught.value.hint).partition(": ")[2]
    eval(advice, {"torch": torch, "path": path})
    assert set(read_torch_bin(tmp_path / "pytorch_model.bin")) >= set(MODEL)


def test_the_same_dictionary_twice_is_one(tmp_path: Path) -> None:
    torch.save({"model": MODEL, "module": MODEL}, tmp_path / "model.pt")
    assert set(read_torch_bin(tmp_path / "model.pt")) == set(MODEL)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (optimizer().state_dict(), "an optimizer's state, not a model"),
        ({"optimizer": optimizer().state_dict(), "scheduler": {"last_epoch": 1}}, "an optimizer's state"),
        ({"epoch": 3, "loss": 0.5}, "the entry 'epoch' is no tensor"),
        ([MODEL], "no dictionary of tensors"),
        (torch.ones(2), "no dictionary of tensors"),
        ({**MODEL, "inner": {"c": torch.ones(1)}}, "the entry 'inner' is no tensor"),
        ({**MODEL, 3: torch.ones(1)}, "the entry 3 is no tensor"),
        ({**MODEL, "args": argparse.Namespace(lr=1)}, r"carries code \(argparse\.Namespace\)"),
        (argparse.Namespace(model=MODEL), r"carries code \(argparse\.Namespace\)"),
        ({"a": {"b": {"c": {"d": MODEL}}}}, "the entry 'a' is no tensor"),
    ],
)
def test_what_holds_no_state_dict(tmp_path: Path, value: Any, message: str) -> None:
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_torch_bin(tmp_path / "model.pt")
    assert caught.value.hint is not None or "dictionary" in message


def test_a_whole_model_object_is_told_apart(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"carries code \(torch\.nn\.modules\.linear\.Linear\)") as caught:
        read_torch_bin(tmp_path / "model.pt")
    assert "save `model.state_dict()` in its place" in str(caught.value.hint)


class Calls:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("never",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_beside_a_nested_state_dict_is_still_code(tmp_path: Path, protocol: int) -> None:
    torch.save({"state_dict": MODEL, "hook": Calls()}, tmp_path / "model.pt", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"carries code \((builtins|__builtin__)\.print\)"):
        read_torch_bin(tmp_path / "model.pt")


def wide(width: int, depth: int) -> bytes:
    """Dictionaries of ``width`` keys that all lead to the next: width ** depth ways to the last."""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = dict.fromkeys((str(n) for n in range(width)), value)
    return pickle.dumps(value, protocol=2)


def test_dictionaries_that_repeat_each_other_are_walked_once(tmp_path: Path) -> None:
    path = archive(tmp_path, wide(20_000, 4))
    with pytest.raises(CheckpointError, match="is no tensor"):
        read_torch_bin(path)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x04]]a.",
        b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x04K\x01K\x02\x93.",
        b"\x80\x04N\x94N\x94K\x01a.",
        b"\x80\x04\x8f(K\x01\x90.",
        b"\x80\x04K\x01)}\x92.",
    ],
)
def test_instructions_of_later_protocols_on_what_they_do_not_fit(tmp_path: Path, pickled: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_torch_bin(archive(tmp_path, pickled))
