"""Weight files without an index or under other names: one model's are read together, and only those."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glmquant.errors import CheckpointError
from glmquant.store.checkpoint import open_checkpoint
from tests.hints.follow import follows
from tests.support.handed import assert_same_model, plain, saved, weights, without_weights

NAMES = [
    "model.pt", "pytorch_model.pt", "consolidated.00.pth", "mp_rank_00_model_states.pt", "last.ckpt", "epoch_0.pth",
    "gptq_model-4bit-128g.bin", "global_step100/mp_rank_00_model_states.pt",
]  # fmt: skip


def opens_as_plain(directory: Path, scratch: Path) -> None:
    assert_same_model(open_checkpoint(directory), open_checkpoint(plain(scratch / "plain")))


@pytest.mark.parametrize("name", NAMES)
def test_other_names(tmp_path: Path, name: str) -> None:
    opens_as_plain(saved(tmp_path / "c", {"module": weights()}, name), tmp_path)


def test_what_a_trainer_leaves_beside_is_not_looked_at(tmp_path: Path) -> None:
    """mymusise/ChatGLM-Tuning#198 lists such a directory."""
    directory = saved(tmp_path / "c", weights(), "model.pt")
    for name in ("optimizer.pt", "rng_state.pth", "scaler.pt", "scheduler.pt", "training_args.bin", "optimizer.bin"):
        (directory / name).write_bytes(b"not looked at")
    opens_as_plain(directory, tmp_path)


@pytest.mark.parametrize("latest", ["global_step200", "global_step200\n", None])
def test_deepspeeds_last_step(tmp_path: Path, latest: str | None) -> None:
    directory = saved(tmp_path / "c", {"module": weights()}, "global_step200/mp_rank_00_model_states.pt")
    (directory / "global_step200" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
    if latest is not None:
        saved(tmp_path / "old", {"module": {}}, "global_step100/mp_rank_00_model_states.pt")
        (tmp_path / "old" / "global_step100").rename(directory / "global_step100")
        (directory / "latest").write_text(latest)
    opens_as_plain(directory, tmp_path)


def parts(count: int) -> list[dict[str, torch.Tensor]]:
    names = list(weights())
    size = -(-len(names) // count)
    return [{name: weights()[name] for name in names[at : at + size]} for at in range(0, len(names), size)]


@pytest.mark.parametrize("form", ["pytorch_model-{:05}-of-00003.bin", "model-{:05}-of-00003.safetensors", "part{}.pt"])
def test_shards_without_an_index(tmp_path: Path, form: str) -> None:
    """ChatGLM-6B#801: all eight shards there, the index not."""
    directory = without_weights(tmp_path / "c")
    for number, part in enumerate(parts(3), start=1):
        (save_file if form.endswith("safetensors") else torch.save)(part, directory / form.format(number))
    opens_as_plain(directory, tmp_path)


@pytest.mark.parametrize("present", [(1, 2), (1, 3), (3,)])
@follows("fetch the missing files; the index (*.index.json) is not needed once all are there")
def test_shards_that_are_not_all_there(tmp_path: Path, present: tuple[int, ...]) -> None:
    directory = without_weights(tmp_path / "c")
    for number in present:
        torch.save(parts(3)[number - 1], directory / f"pytorch_model-{number:05}-of-00003.bin")
    absent = min({1, 2, 3} - set(present))
    with pytest.raises(CheckpointError, match=f"{len(present)} of 3 weight files") as caught:
        open_checkpoint(directory)
    assert f"pytorch_model-{absent:05}-of-00003.bin" in str(caught.value.expected)
    for number in (1, 2, 3):
        torch.save(parts(3)[number - 1], directory / f"pytorch_model-{number:05}-of-00003.bin")
    opens_as_plain(directory, tmp_path)


@follows("move away those that are not this model's; an index (*.index.json) tells which are")
def test_two_sets_of_shards_are_not_mixed(tmp_path: Path) -> None:
    """unslothai/unsloth-zoo#808: a stale set beside the one the index names."""
    directory = without_weights(tmp_path / "c")
    for count in (2, 3):
        for number, part in enumerate(parts(count), start=1):
            save_file(part, directory / f"model-{number:05}-of-{count:05}.safetensors")
    with pytest.raises(CheckpointError, match="5 weight files, and no index") as caught:
        open_checkpoint(directory)
    assert "move away" in str(caught.value.hint)
    for path in directory.glob("*-of-00002.safetensors"):
        path.unlink()
    opens_as_plain(directory, tmp_path)


def test_files_that_overlap(tmp_path: Path) -> None:
    directory = saved(tmp_path / "c", weights(), "one.pt")
    torch.save(weights(), directory / "two.pt")
    with pytest.raises(CheckpointError, match=r"2 weight files, and no index: the tensor .* is in two shards"):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", ["mp_rank_{:02}_model_states.pt", "consolidated.{:02}.pth"])
def test_model_parallel_ranks(tmp_path: Path, name: str) -> None:
    """THUDM/GLM#41: weights cut into four by change_mp.py."""
    directory = without_weights(tmp_path / "c")
    for rank in range(4):
        torch.save({"module": weights()}, directory / name.format(rank))
    with pytest.raises(CheckpointError, match="cut over 4 model-parallel ranks"):
        open_checkpoint(directory)


def test_safetensors_come_first_and_content_before_the_name(tmp_path: Path) -> None:
    directory = without_weights(tmp_path / "c")
    save_file(weights(), directory / "pytorch_model.bin")
    opens_as_plain(directory, tmp_path)
    torch.save(weights(), directory / "model.safetensors")
    assert_same_model(open_checkpoint(directory), open_checkpoint(tmp_path / "plain"))


def test_an_index_whose_shards_are_missing_counts_them(tmp_path: Path) -> None:
    directory = plain(tmp_path / "c")
    for path in directory.glob("*.bin"):
        path.unlink()
    with pytest.raises(CheckpointError, match="2 of the 2 weight files are missing") as caught:
        open_checkpoint(directory)
    assert "index.json" in str(caught.value.where)


@pytest.mark.parametrize("target", ["/etc", "../other", "gone", "config.json", ""])
@follows("write {} into it, if that is the step you mean")
def test_a_last_step_that_is_none_is_named_and_the_advice_works(tmp_path: Path, target: str) -> None:
    directory = saved(tmp_path / "c", {"module": weights()}, "global_step1/mp_rank_00_model_states.pt")
    (directory / "latest").write_text(target)
    with pytest.raises(CheckpointError, match="which is not there") as caught:
        open_checkpoint(directory)
    (directory / "latest").write_text(str(caught.value.hint).split()[1])
    opens_as_plain(directory, tmp_path)
