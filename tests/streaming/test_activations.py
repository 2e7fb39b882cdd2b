"""Activations lie where their store says, are shared by nobody, and change no byte by where they lie."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.errors import CalibrationError
from glmquant.quantization.calibrate import key_value_ranges
from glmquant.quantization.quantize import quantize
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import open_checkpoint
from glmquant.streaming import activations as module
from glmquant.streaming.activations import (
    ActivationStore,
    ActivationTensor,
    Batch,
    embed,
    embed_sequences,
    sample_batches,
)
from tests.quantization.test_quantize import recipe, samples_for
from tests.support.models import TINY
from tests.support.paths import CHATGLM2, contents

ONE = Batch((0,), 2, 0)


def on_disk(tensor: ActivationTensor, batch: Batch) -> bool:
    """What is read from a file is a new copy each time."""
    first, second = tensor.stored(batch), tensor.stored(batch)
    return first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_holds_what_memory_holds(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    first, second = Batch((0, 1), 3, 0), Batch((2, 3, 4), 3, 6)
    with ActivationStore(0, tmp_path).lent(15, 4, dtype) as tensor:
        for batch in (second, first):
            tensor.write(batch, values[list(batch.members)])
        assert on_disk(tensor, first)
        assert torch.equal(tensor.read(first), values[:2])
        assert torch.equal(tensor.read(second), values[2:])
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("budget", [0, 1000])
def test_a_write_waits_until_the_values_are_saved(tmp_path: Path, budget: int) -> None:
    saved = Future[None]()
    tensor = ActivationStore(budget, tmp_path).tensor(2, 2, torch.float32)
    tensor.write(ONE, torch.zeros(1, 2, 2))
    tensor.keep_until(saved)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(tensor.write, ONE, torch.ones(1, 2, 2))
        with pytest.raises(TimeoutError):
            writing.result(timeout=0.2)
        assert not tensor.read(ONE).any()
        saved.set_result(None)
        writing.result()
    assert tensor.read(ONE).all()


def test_what_went_wrong_with_saving_stops_the_next_write() -> None:
    failed = Future[None]()
    failed.set_exception(OSError("disk full"))
    tensor = ActivationStore().tensor(2, 2, torch.float32)
    tensor.keep_until(failed)
    with pytest.raises(OSError, match="disk full"):
        tensor.write(ONE, torch.ones(1, 2, 2))


def test_room_is_given_back(tmp_path: Path) -> None:
    store, batch = ActivationStore(100, tmp_path), Batch((0,), 5, 0)
    with store.lent(5, 4, torch.float32) as first, store.lent(5, 4, torch.float32) as second:
        second.write(batch, torch.zeros(1, 5, 4))
        assert (on_disk(first, batch), on_disk(second, batch)) == (False, True)
    assert not on_disk(store.tensor(5, 5, torch.float32), batch)


def test_memory_that_was_lent_is_lent_again() -> None:
    store, places, batch = ActivationStore(), set[int](), Batch((0, 1), 3, 0)
    for width in (8, 8, 4):
        with store.lent(6, width, torch.float32) as tensor:
            tensor.write(batch, torch.full((2, 3, width), float(width)))
            assert bool((tensor.read(batch) == width).all())
            places.add(tensor.read(batch).data_ptr())
    assert len(places) == 1


def test_two_tensors_at_a_time_never_share_memory() -> None:
    store, batch = ActivationStore(), Batch((0, 1), 3, 0)
    for _ in range(2):
        with store.lent(6, 4, torch.float32) as first, store.lent(6, 2, torch.bfloat16) as second:
            first.write(batch, torch.ones(2, 3, 4))
            second.write(batch, torch.zeros(2, 3, 2))
            assert bool((first.read(batch) == 1).all())


def test_memory_kept_to_lend_again_stays_within_the_budget(tmp_path: Path) -> None:
    store, batch = ActivationStore(100, tmp_path), Batch((0,), 5, 0)
    with store.lent(5, 4, torch.float32), store.lent(5, 1, torch.float32):
        pass
    with store.lent(5, 1, torch.float32), store.lent(5, 1, torch.float32) as second:
        assert not on_disk(second, batch)  # each lies in one of the two places kept
    with store.lent(5, 5, torch.float32) as whole:
        assert not on_disk(whole, batch)


def test_a_file_cut_short_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as file, pytest.raises(OSError, match="too early"):
        ActivationTensor(2, torch.float32, file).read(ONE)


def test_batches_hold_whole_samples_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 20)
    assert sample_batches(5, 8) == [Batch((0, 1), 8, 0), Batch((2, 3), 8, 16), Batch((4,), 8, 32)]
    assert [batch.num_tokens for batch in sample_batches(2, 50)] == [50, 50]


def test_sequences_of_any_lengths_lie_side_by_side_with_padding_on_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 10)
    table_VD = torch.arange(200.0).unsqueeze(1).expand(200, TINY.hidden_size)
    ids = [np.arange(1, 1 + length) for length in (2, 5, 3, 4)]
    activations = embed_sequences(ids, table_VD, TINY)
    assert sorted(member for batch in activations.batches for member in batch.members) == [0, 1, 2, 3]
    for batch in activations.batches:
        rows = activations.hidden.read(batch)[..., 0]
        for row, member in zip(rows, batch.members, strict=True):
            padding = [0.0] * (batch.length - len(ids[member]))
            assert row.tolist() == [*ids[member].tolist(), *padding]


def test_token_ids_outside_the_vocabulary_are_refused() -> None:
    table_VD = torch.zeros(10, TINY.hidden_size)
    with pytest.raises(CalibrationError, match="token ids span 3 to 10"):
        embed(torch.tensor([[3, 10]]), table_VD, TINY)
    with pytest.raises(CalibrationError, match="token ids span -1 to 4"):
        embed_sequences([np.array([4, -1])], table_VD, TINY)


def test_spilling_changes_no_byte(tmp_path: Path) -> None:
    checkpoint, samples = open_checkpoint(CHATGLM2), samples_for(CHATGLM2)
    plan = make_plan(recipe(), checkpoint.config)
    for name, store in (("memory", None), ("disk", ActivationStore(0, tmp_path))):
        (tmp_path / name).mkdir()
        quantize(checkpoint, plan, samples, tmp_path / name, store=store)
    assert contents(tmp_path / "disk") == contents(tmp_path / "memory")
    in_memory, spilled = (key_value_ranges(checkpoint, samples, store=s) for s in (None, ActivationStore(0, tmp_path)))
    for one, other in zip(in_memory, spilled, strict=True):
        assert torch.equal(one.key_absmax_CE, other.key_absmax_CE)
        assert torch.equal(one.value_absmax_CE, other.value_absmax_CE)
