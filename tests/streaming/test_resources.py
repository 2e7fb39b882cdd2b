"""A memory limit sends activations to the disk, and refuses what cannot stay within it."""

from pathlib import Path

import pytest
import torch

from glmquant.core.device import CPU
from glmquant.core.machine import peak_memory
from glmquant.core.ranks import Ranks
from glmquant.errors import DeviceError, OutputError
from glmquant.streaming import resources
from glmquant.streaming.activations import ActivationStore, Batch
from glmquant.streaming.resources import Resources
from tests.streaming.test_activations import on_disk

BATCH = Batch((0, 1), 5, 0)
BYTES = BATCH.num_tokens * 4 * 4


def spills_to_disk(store: ActivationStore, batch: Batch = BATCH, width: int = 4) -> bool:
    tensor = store.tensor(batch.num_tokens, width, torch.float32)
    tensor.write(batch, torch.zeros(len(batch.members), batch.length, width))
    return on_disk(tensor, batch)


@pytest.mark.parametrize(("limit", "spills"), [(1000 + BYTES, False), (1000 + BYTES - 1, True), (1000, True)])
def test_a_limit_sends_to_the_disk_what_it_does_not_hold(tmp_path: Path, limit: int, spills: bool) -> None:
    store = Resources(memory_limit=limit).store(600, tmp_path, held=400)
    assert spills_to_disk(store) == spills


def test_what_the_process_has_held_counts(tmp_path: Path) -> None:
    store = Resources(memory_limit=peak_memory() + 10_000_000).store(9_999_000, tmp_path)
    assert spills_to_disk(store, Batch((0,), 1000, 0), 1000)


def test_without_a_limit_a_share_of_the_machine_is_used() -> None:
    store = Resources().store(0, held=0)
    assert not spills_to_disk(store)
    assert store.device == CPU


def test_ranks_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "physical_memory", lambda: 2 * BYTES / resources.SHARE_OF_MACHINE)
    spills = [spills_to_disk(Resources(ranks=Ranks(0, 3, 0, count)).store(0, held=0)) for count in (1, 2, 3)]
    assert spills == [False, False, True]


def test_a_gpu_is_each_ranks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Resources.named("cuda", None).device == torch.device("cuda")
    monkeypatch.setattr(resources, "current", lambda: Ranks(3, 4, 1, 2))
    assert Resources.named("cuda", None) == Resources(torch.device("cuda:1"), None, Ranks(3, 4, 1, 2))
    assert Resources.named("cuda:0", None).device == torch.device("cuda:0")
    assert Resources.named("cpu", None).device == CPU


def test_a_pass_beyond_the_limit_is_refused_with_what_it_needs() -> None:
    with pytest.raises(OutputError, match=r"limit is 1\.00 GB; one block alone needs 1\.50 GB") as refused:
        Resources(memory_limit=10**9).store(5 * 10**8, held=10**9)
    assert "give at least 1.6GB" in str(refused.value) or "give at least 1.5GB" in str(refused.value)


def test_a_device_is_found_by_its_name() -> None:
    assert Resources.named("cpu", 5) == Resources(CPU, 5)
    with pytest.raises(DeviceError, match="no device 'tpu'"):
        Resources.named("tpu", None)


def test_a_device_without_memory_is_an_error_that_says_so() -> None:
    with pytest.raises(DeviceError, match="too little memory"), Resources().in_use():
        raise torch.OutOfMemoryError("CUDA out of memory")
