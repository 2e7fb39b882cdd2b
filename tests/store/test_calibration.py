import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmquant.data.calibration import Calibration, CalibrationSet, KeyValueRange, TextSource
from glmquant.errors import CalibrationError
from glmquant.store.calibration import read_calibration, write_calibration
from glmquant.store.inventory import sha256_of
from glmquant.store.sealed_tensors import write_sealed


def calibration() -> Calibration:
    samples = CalibrationSet(torch.tensor([[1, 2, 3], [4, 5, 6]]), (TextSource("文.txt", 2),), "t" * 9, 3, "sequential")
    return Calibration(samples, (KeyValueRange(torch.ones(2, 4), torch.arange(8.0).view(2, 4)),))


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    written = calibration()
    write_calibration(written, tmp_path)
    read = read_calibration(tmp_path)
    assert torch.equal(read.samples.tokens_SL, written.samples.tokens_SL)
    assert read.samples.sha256 == written.samples.sha256
    described = [(c.samples.sources, c.samples.tokenizer, c.samples.seed, c.samples.sampling) for c in (read, written)]
    assert described[0] == described[1]
    assert torch.equal(read.key_values[0].value_absmax_CE, torch.arange(8.0).view(2, 4))
    assert torch.equal(read.key_values[0].key_absmax_CE, torch.ones(2, 4))


def test_equal_calibrations_give_equal_bytes(tmp_path: Path) -> None:
    directories = [tmp_path / name for name in "ab"]
    for directory in directories:
        directory.mkdir()
        write_calibration(calibration(), directory)
    for name in ("calibration.json", "calibration.safetensors"):
        first, second = (directory / name for directory in directories)
        assert first.read_bytes() == second.read_bytes()


def test_the_format_of_the_first_release_is_read_without_what_nothing_read(tmp_path: Path) -> None:
    write_calibration(calibration(), tmp_path)
    describe(format=1, groups=["lm_head"])(tmp_path)
    store("inputs.lm_head.absmax", torch.ones(4))(tmp_path)
    assert torch.equal(read_calibration(tmp_path).samples.tokens_SL, calibration().samples.tokens_SL)


def test_a_bit_that_flipped_anywhere_is_found(tmp_path: Path) -> None:
    write_calibration(calibration(), tmp_path)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            with pytest.raises(CalibrationError):
                read_calibration(tmp_path)
        path.write_bytes(whole)
    assert torch.equal(read_calibration(tmp_path).samples.tokens_SL, calibration().samples.tokens_SL)


def test_a_seed_that_was_edited_is_told(tmp_path: Path) -> None:
    write_calibration(calibration(), tmp_path)
    path = tmp_path / "calibration.json"
    path.write_text(path.read_text().replace('"seed": ', '"seed": 9'))
    with pytest.raises(CalibrationError, match=r"calibration\.json was changed since it was written"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("format_", [1, 2])
def test_formats_without_a_hash_are_read(tmp_path: Path, format_: int) -> None:
    write_calibration(calibration(), tmp_path)
    describe(format=format_)(tmp_path)
    unsealed(tmp_path)
    assert torch.equal(read_calibration(tmp_path).samples.tokens_SL, calibration().samples.tokens_SL)


def unsealed(directory: Path) -> None:
    """The tensors as earlier releases wrote them."""
    path = directory / "calibration.safetensors"
    save_file({name: tensor.clone() for name, tensor in load_file(path).items()}, path)


def drop(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def truncate(directory: Path) -> None:
    path = directory / "calibration.safetensors"
    path.write_bytes(path.read_bytes()[:-20])


def describe(**changes: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "calibration.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        seal(directory, load_file(directory / "calibration.safetensors"))

    return change


def seal(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    """As a calibration of such a content would be written."""
    about = {"description": sha256_of(directory / "calibration.json")}
    own = {name: tensor.clone() for name, tensor in tensors.items()}  # not mapped from the file that is written
    write_sealed(directory / "calibration.safetensors", own, about)


def store(name: str, tensor: torch.Tensor) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "calibration.safetensors"
        seal(directory, load_file(path) | {name: tensor})

    return change


def pipe(name: str) -> Callable[[Path], None]:
    """A file that no one ever writes to: reading it would wait for good."""

    def change(directory: Path) -> None:
        (directory / name).unlink()
        os.mkfifo(directory / name)

    return change


def not_json(directory: Path) -> None:
    (directory / "calibration.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("calibration.json"), "no calibration.json"),
        (drop("calibration.safetensors"), "cannot read calibration.safetensors"),
        (truncate, "cannot read calibration.safetensors"),
        (pipe("calibration.json"), "no calibration.json"),
        (pipe("calibration.safetensors"), "cannot read calibration.safetensors"),
        (not_json, "calibration.json is damaged"),
        (describe(format=9), "format 9 is not known"),
        (describe(sampling="best"), "damaged[\\s\\S]*sampling"),
        (describe(layers=2), "key_values.1.key_absmax"),
        (store("tokens", torch.tensor([[1, 2, 3], [4, 5, 7]])), "are not those"),
        (store("tokens", torch.tensor([1.0])), "no int64 tensor `tokens`"),
        (store("key_values.0.key_absmax", torch.tensor([[1.0, float("nan")]])), "negative or not finite"),
        (store("key_values.0.key_absmax", torch.tensor([[1.0, -1.0]])), "negative or not finite"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_calibration(calibration(), tmp_path)
    damage(tmp_path)
    with pytest.raises(CalibrationError, match=message):
        read_calibration(tmp_path)
