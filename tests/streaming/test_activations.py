from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from glmquant.data.calibration import CalibrationSet
from glmquant.quantization.calibrate import calibrate
from glmquant.quantization.quantize import quantize
from glmquant.store.checkpoint import open_checkpoint
from glmquant.streaming.activations import ActivationStore, SampleTensor
from glmquant.streaming.prefetch import blocks_ahead
from tests.quantization.test_quantize import recipe, samples_for
from tests.support.paths import CHATGLM2, contents


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_holds_what_memory_holds(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    with ActivationStore(0, tmp_path).lent((5, 3, 4), dtype) as tensor:
        assert tensor.on_disk
        for samples in (slice(2, 5), slice(0, 2)):
            tensor.write(samples, values[samples])
        assert torch.equal(tensor.read(slice(1, 4)), values[1:4])
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("budget", [0, 1000])
def test_a_write_waits_until_the_values_are_saved(tmp_path: Path, budget: int) -> None:
    saved = Future[None]()
    tensor = ActivationStore(budget, tmp_path).tensor((1, 2, 2), torch.float32)
    tensor.write(tensor.all, torch.zeros(1, 2, 2))
    tensor.keep_until(saved)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(tensor.write, tensor.all, torch.ones(1, 2, 2))
        with pytest.raises(TimeoutError):
            writing.result(timeout=0.2)
        assert not tensor.read(tensor.all).any()
        saved.set_result(None)
        writing.result()
    assert tensor.read(tensor.all).all()


def test_what_went_wrong_with_saving_stops_the_next_write() -> None:
    failed = Future[None]()
    failed.set_exception(OSError("disk full"))
    tensor = ActivationStore().tensor((1, 2, 2), torch.float32)
    tensor.keep_until(failed)
    with pytest.raises(OSError, match="disk full"):
        tensor.write(tensor.all, torch.ones(1, 2, 2))


def test_room_is_given_back() -> None:
    room = ActivationStore(100)
    with room.lent((1, 5, 4), torch.float32) as first, room.lent((1, 5, 4), torch.float32) as second:
        assert (first.on_disk, second.on_disk) == (False, True)
    assert not room.tensor((1, 5, 5), torch.float32).on_disk


def test_memory_that_was_lent_is_lent_again() -> None:
    room, places = ActivationStore(), set[int]()
    for width in (8, 8, 4):
        with room.lent((2, 3, width), torch.float32) as tensor:
            tensor.write(tensor.all, torch.full((2, 3, width), float(width)))
            assert bool((tensor.read(tensor.all) == width).all())
            places.add(tensor.read(tensor.all).data_ptr())
    assert len(places) == 1


def test_two_tensors_at_a_time_never_share_memory() -> None:
    room = ActivationStore()
    for _ in range(2):
        with room.lent((2, 3, 4), torch.float32) as first, room.lent((2, 3, 2), torch.bfloat16) as second:
            first.write(first.all, torch.ones(2, 3, 4))
            second.write(second.all, torch.zeros(2, 3, 2))
            assert bool((first.read(first.all) == 1).all())


def test_memory_kept_to_lend_again_stays_within_the_budget() -> None:
    room = ActivationStore(100)
    with room.lent((1, 5, 4), torch.float32), room.lent((1, 5, 1), torch.float32):
        pass
    with room.lent((1, 5, 1), torch.float32), room.lent((1, 5, 1), torch.float32) as second:
        assert not second.on_disk  # each lies in one of the two places kept
    with room.lent((1, 5, 5), torch.float32) as whole:
        assert not whole.on_disk


def test_a_file_cut_short_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as file, pytest.raises(OSError, match="too early"):
        SampleTensor((2, 2, 2), torch.float32, file).read(slice(0, 1))


def test_spilling_changes_no_byte(tmp_path: Path) -> None:
    checkpoint, samples = open_checkpoint(CHATGLM2), samples_for(CHATGLM2)
    for name, room in (("memory", None), ("disk", ActivationStore(0, tmp_path))):
        (tmp_path / name).mkdir()
        quantize(checkpoint, recipe(), samples, tmp_path / name, room=room)
    assert contents(tmp_path / "disk") == contents(tmp_path / "memory")
    in_memory, on_disk = (calibrate(checkpoint, samples, room=room) for room in (None, ActivationStore(0, tmp_path)))
    for name, seen in in_memory.inputs.items():
        assert torch.equal(seen.absmax_K, on_disk.inputs[name].absmax_K)
        assert torch.equal(seen.mean_square_K, on_disk.inputs[name].mean_square_K)


def test_bfloat16_products_change_little(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    tokens = torch.randint(0, 2000, (4, 32), generator=torch.Generator().manual_seed(1))
    exact, rounded = (
        calibrate(checkpoint, CalibrationSet(tokens, (), "", 0), dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    for name, seen in exact.inputs.items():
        torch.testing.assert_close(rounded.inputs[name].mean_square_K, seen.mean_square_K, rtol=0.05, atol=1e-3)


def test_the_next_block_loads_meanwhile() -> None:
    loaded: list[int] = []

    def load(layer: int) -> int:
        loaded.append(layer)
        return layer

    blocks = blocks_ahead(load, [3, 5, 8])
    assert next(blocks) == (3, 3)
    assert list(blocks) == [(5, 5), (8, 8)]
    assert loaded == [3, 5, 8]


def test_an_error_of_the_reader_comes_through() -> None:
    def load(layer: int) -> int:
        raise ValueError(layer)

    with pytest.raises(ValueError, match="7"):
        next(blocks_ahead(load, [7]))
