"""Hints on devices, downloads and files of strangers."""

import gzip
import lzma
import shlex
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glmquant.core.device import CPU, device_named, memory_of
from glmquant.core.hub_cache import snapshot
from glmquant.core.placeholders import fetch_again, refuse_packed, refuse_placeholder_at
from glmquant.core.qtensor import storable
from glmquant.core.untrusted import file_inside
from glmquant.data.labeled import read_labeled
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.reports.read import read_report
from glmquant.runtime.session import require_bundle
from glmquant.store.adapter import open_adapter
from glmquant.store.calibration import read_calibration, write_calibration
from tests.hints.commands import commands, hub_command, shell
from tests.hints.follow import follows, met_errors, named, refused
from tests.hints.places import Hint
from tests.store.test_adapter import BOTH
from tests.store.test_calibration import calibration
from tests.support.adapters import write_adapter
from tests.support.handed import HTML_PAGE, LFS_POINTER
from tests.support.hub import Hub
from tests.support.models import random_source
from tests.support.reports import report

CONTENT = b"\x0a\x0e\x0a\x05<unk>"
NAME = "tokenizer.model"


@follows("compute on the device cpu, or install a build of torch for this machine's GPU (pytorch.org)", "core.device")
def test_without_a_gpu_the_cpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(lambda: device_named("cuda"))
    assert device_named("cpu") == CPU


@follows("free GPU memory and run the same again, which resumes; on the device cpu it restarts", "core.device")
def test_with_freed_memory_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(free: bool) -> str:
        with memory_of(torch.device("cuda")):
            if not free:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return "done"

    refused(lambda: work(free=False))
    assert work(free=True) == "done"


@follows("download the model again", "core.hub_cache")
def test_a_cache_without_a_snapshot_is_filled_again(tmp_path: Path) -> None:
    repository = tmp_path / "models--THUDM--chatglm2-6b"
    (repository / "snapshots").mkdir(parents=True)
    refused(lambda: snapshot(repository))
    (repository / "snapshots" / "abc").mkdir()
    assert snapshot(repository) == repository / "snapshots" / "abc"


@follows("give the one you mean, such as {}", "core.hub_cache")
def test_the_snapshot_that_is_named_is_one(tmp_path: Path) -> None:
    repository = tmp_path / "models--THUDM--chatglm2-6b"
    for revision in ("abc", "def"):
        (repository / "snapshots" / revision).mkdir(parents=True)
    named = Path(str(refused(lambda: snapshot(repository)).hint).rpartition(" ")[2])
    assert snapshot(named) == named


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(NAME, CONTENT)


def zstandard(path: Path) -> None:
    import zstandard

    path.write_bytes(zstandard.compress(CONTENT))


PACKED: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(gzip.compress(CONTENT)),
    lambda path: path.write_bytes(lzma.compress(CONTENT)),
    zipped,
    zstandard,
]


@pytest.mark.parametrize("pack", PACKED, ids=["gzip", "xz", "zip", "zstd"])
@follows("unpack it under the same name, with `{}`", "refuse_packed")
def test_a_packed_file_is_unpacked_in_its_place(tmp_path: Path, pack: Callable[[Path], object]) -> None:
    path = tmp_path / "a directory" / NAME
    path.parent.mkdir()
    pack(path)
    (command,) = commands(refused(lambda: refuse_packed(path.read_bytes(), path)).hint)
    shell(command, tmp_path)
    assert path.read_bytes() == CONTENT
    refuse_packed(path.read_bytes(), path)


@follows("{}, ID as the hub names the model", "fetch_again")
@follows("{}, ID as the hub names the model", "refuse_placeholder")
def test_a_pointer_is_replaced_by_its_file(tmp_path: Path, hub: Hub) -> None:
    path = tmp_path / "my model" / NAME
    path.parent.mkdir()
    path.write_bytes(LFS_POINTER)
    (command,) = commands(refused(lambda: refuse_placeholder_at(path)).hint)
    hub_command(command.replace(" ID ", " THUDM/chatglm2-6b "))
    assert path.read_bytes() == hub.repositories["THUDM/chatglm2-6b"].files[NAME]
    refuse_placeholder_at(path)


@follows("{}, from https://huggingface.co/{}/resolve/main/{}", "fetch_again")
@follows("{}; the address of a file has /resolve/ where that of its page has /blob/", "refuse_placeholder")
def test_a_page_in_a_files_place_is_fetched_from_the_model_that_config_json_names(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "config.json").write_text('{"_name_or_path": "THUDM/chatglm2-6b"}')
    (tmp_path / NAME).write_bytes(HTML_PAGE)
    hint = refused(lambda: refuse_placeholder_at(tmp_path / NAME)).hint
    assert f"https://huggingface.co/THUDM/chatglm2-6b/resolve/main/{NAME};" in str(hint)
    hub_command(commands(hint)[0])
    refuse_placeholder_at(tmp_path / NAME)


def test_a_file_that_was_damaged_after_its_download_is_fetched_all_the_same(tmp_path: Path, hub: Hub) -> None:
    whole = hub.repositories["THUDM/chatglm2-6b"].files["config.json"]
    command = commands(fetch_again(tmp_path / "config.json"))[0].replace(" ID ", " THUDM/chatglm2-6b ")
    hub_command(command)
    (tmp_path / "config.json").write_bytes(whole[:-9])
    for record in tmp_path.rglob("*.metadata"):  # as copies of the directory have it: newer than the file
        record.write_text("\n".join([*record.read_text().split()[:2], "9999999999.0"]) + "\n")
    hub_command(command)
    assert (tmp_path / "config.json").read_bytes() == whole


@follows("{}, from https://huggingface.co/{}/resolve/main/{}", "refuse_placeholder")
def test_a_pointer_is_fetched_from_the_model_that_config_json_names(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "config.json").write_text('{"_name_or_path": "THUDM/chatglm2-6b"}')
    (tmp_path / NAME).write_bytes(LFS_POINTER)
    hub_command(commands(refused(lambda: refuse_placeholder_at(tmp_path / NAME)).hint)[0])
    refuse_placeholder_at(tmp_path / NAME)


@follows("`git lfs install`, then `git lfs pull` in {}; or without git, {}", "refuse_placeholder")
def test_in_a_clone_git_lfs_or_the_hub_brings_the_file(tmp_path: Path, hub: Hub) -> None:
    shell("git init -q .", tmp_path)
    (tmp_path / NAME).write_bytes(LFS_POINTER)
    hint = refused(lambda: refuse_placeholder_at(tmp_path / NAME)).hint
    assert f"`git lfs pull` in {shlex.quote(str(tmp_path))};" in str(hint)
    hub_command(commands(hint)[-1].replace(" ID ", " THUDM/chatglm2-6b "))
    refuse_placeholder_at(tmp_path / NAME)


@follows(
    "the checkpoint's weights are far too large to be real; see whether they are the publisher's, and download them again",
    "storable",
)
def test_scales_of_the_published_size_are_stored() -> None:
    refused(lambda: storable(torch.tensor([1e6])))
    assert storable(torch.tensor([0.5])).item() == 0.5


@follows("download the checkpoint again, completely", "core.untrusted:file_inside")
def test_a_missing_file_is_there_after_a_whole_download(tmp_path: Path) -> None:
    refused(lambda: file_inside(tmp_path, NAME, where=tmp_path))
    (tmp_path / NAME).write_bytes(CONTENT)
    assert file_inside(tmp_path, NAME, where=tmp_path).read_bytes() == CONTENT


@follows("give {}, where the links lead", "core.untrusted:file_inside")
def test_where_links_into_the_cache_lead_the_file_is_read(tmp_path: Path) -> None:
    snapshot_of = tmp_path / "models--THUDM--chatglm2-6b" / "snapshots" / "abc"
    snapshot_of.mkdir(parents=True)
    (snapshot_of / NAME).write_bytes(CONTENT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / NAME).symlink_to(snapshot_of / NAME)
    error = refused(lambda: file_inside(tmp_path / "mine", NAME, where=tmp_path))
    given = Path(str(error.hint).removeprefix("give ").removesuffix(", where the links lead"))
    assert file_inside(snapshot(given), NAME, where=given).read_bytes() == CONTENT


@follows(
    "copy the directory with `cp -rL {} {}`, or download with `hf download ID --local-dir DIR`",
    "core.untrusted:file_inside",
)
def test_a_copy_that_follows_links_is_read(tmp_path: Path, hub: Hub) -> None:
    linked = tmp_path / "my links"
    linked.mkdir()
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    (linked / NAME).symlink_to(tmp_path / "elsewhere")
    copy, download = commands(refused(lambda: file_inside(linked, NAME, where=linked)).hint)
    shell(copy, tmp_path)
    copied = Path(shlex.split(copy)[-1])
    assert file_inside(copied, NAME, where=copied).read_bytes() == CONTENT
    shutil.rmtree(copied)
    hub_command(download.replace("ID", "THUDM/chatglm2-6b").replace("DIR", shlex.quote(str(copied))))
    assert file_inside(copied, NAME, where=copied).stat().st_size


SUGGESTED: dict[str, tuple[Hint, str, str, Callable[[Path], object]]] = {
    "data": (named("<did_you_mean>", "_on_disk"), "trian.jsonl", "train.jsonl", read_labeled),
    "a report": (named("<did_you_mean>", "read_report"), "reprot.json", "report.json", read_report),
    "a calibration": (named("<did_you_mean>", "_read_description"), "calibraton", "calibration", read_calibration),
    "an adapter": (named("<did_you_mean>", "store.adapter:_existing"), "adaptr", "adapter", open_adapter),
    "a bundle": (named("<did_you_mean>", "without_graph"), "onx", "onnx", require_bundle),
    "whatever it is": (named("did you mean {}?", "core.near:did_you_mean"), "adaptr", "adapter", open_adapter),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything."""
    path = tmp_path_factory.mktemp("made")
    (path / "train.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    (path / "report.json").write_text(report().to_json())
    for name in ("calibration", "onnx"):
        (path / name).mkdir()
    write_calibration(calibration(), path / "calibration")
    write_adapter(path / "adapter", BOTH)
    export_bundle(random_source(), ExportOptions(), path / "onnx")
    return path


@pytest.mark.parametrize("case", SUGGESTED.values(), ids=SUGGESTED)
def test_the_name_that_is_meant_is_read(made: Path, case: tuple[Hint, str, str, Callable[[Path], object]]) -> None:
    hint, wrong, right, read = case
    with met_errors() as met:
        error = refused(lambda: read(made / wrong))
    assert any(each.is_of(hint) for each in met), met
    suggested = Path(str(error.hint).removeprefix("did you mean ").removesuffix("?"))
    assert suggested == made / right
    read(suggested)
