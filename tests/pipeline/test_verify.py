"""What was written is known to be still that: every file of a run, its checkpoint and its bundle."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import glmquant as gq
from glmquant.runtime.model import OnnxModel
from glmquant.store.manifest import MANIFEST
from tests.hints.follow import follows
from tests.support.paths import GOLDEN
from tests.test_cli import glmquant

SETTINGS = {
    "calibration.num_samples": 8,
    "calibration.seq_len": 32,
    "check.num_tokens": 256,
    "check.seq_len": 64,
    "check.text": ["glmquant:held-out-en.txt"],
    "export.kv_cache": "int8",
}
AGAIN = "copy or download the directory again, completely, or make it anew"
FLIPS = 8
"""Of each file."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    gq.run(GOLDEN["chatglm2-tiny"], gq.load_recipe("int4-g128-gptq-fast", SETTINGS), out=out)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("part", ["", "quantized", "onnx"])
def test_what_was_just_written_is_verified(finished: Path, part: str) -> None:
    seen: list[tuple[int, int]] = []
    found = gq.verify(finished / part, progress=lambda stage, done, total: seen.append((done, total)))
    everything = files_in(finished / part)
    assert found.is_complete
    assert (found.files, found.size) == (len(everything), sum(path.stat().st_size for path in everything))
    assert seen[-1][0] == seen[-1][1]


def test_every_file_of_a_run_is_named_somewhere(finished: Path) -> None:
    """So that a file which a later release adds cannot be forgotten."""
    names = {path.relative_to(finished).as_posix() for path in files_in(finished)} - {"run.json"}
    listed = set(json.loads((finished / "run.json").read_text())["written"])
    for part in ("quantized", "onnx"):
        listed |= {f"{part}/{name}" for name in json.loads((finished / part / MANIFEST).read_text())["files"]}
    assert names == listed


def test_a_bit_that_flipped_anywhere_is_found_and_its_file_named(run: Path) -> None:
    chance = random.Random(21)
    for path in files_in(run):
        whole = path.read_bytes()
        for _ in range(FLIPS):
            at, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            with pytest.raises(gq.CheckpointError, match=path.name.replace(".", r"\.")):
                gq.verify(run)
        path.write_bytes(whole)
    assert gq.verify(run).is_complete


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


@follows(AGAIN, "require_sizes")
@follows(AGAIN, "require_hashes")
@follows(AGAIN, "_inside")
def test_a_second_copy_is_verified(finished: Path, run: Path) -> None:
    data = run / "onnx" / "model.onnx.data"
    for spoil in (cut, flip, Path.unlink):
        spoil(data)
        with pytest.raises(gq.CheckpointError):
            gq.verify(run)
        shutil.copy(finished / "onnx" / "model.onnx.data", data)
        assert gq.verify(run).is_complete


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["onnx/model.onnx.data", "quantized/model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("spoil", "what"), [(cut, "is cut short: it has"), (grow, "was changed: it has"), (Path.unlink, "is missing")]
)
def test_a_file_of_another_length_or_none_is_told_before_any_is_read(
    run: Path, name: str, spoil: Callable[[Path], None], what: str
) -> None:
    spoil(run / name)
    seen: list[int] = []
    with pytest.raises(gq.CheckpointError, match=what) as caught:
        gq.verify(run, progress=lambda stage, done, total: seen.append(done))
    assert Path(name).name in str(caught.value)
    assert not seen


@pytest.mark.parametrize("name", ["quantized/model.safetensors", "onnx/tokenizer.model", "onnx/lib/x.onnx"])
@follows("move it away", "require_no_others")
def test_a_file_that_would_be_read_and_nobody_wrote_is_told(run: Path, name: str) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(b"x")
    with pytest.raises(gq.CheckpointError, match="is none of the files that were written") as caught:
        gq.verify(run)
    assert Path(name).name in str(caught.value)
    (run / name).rename(run.parent / "away")
    assert gq.verify(run).is_complete


@pytest.mark.parametrize("name", ["NOTES.md", ".gitattributes", "log.txt", ".cache/huggingface/model.json"])
def test_a_file_that_nothing_reads_may_lie_there(run: Path, name: str) -> None:
    (run / "onnx" / name).parent.mkdir(exist_ok=True, parents=True)
    (run / "onnx" / name).write_bytes(b"x")
    assert gq.verify(run / "onnx").is_complete


def test_a_link_out_of_the_directory_is_none_of_its_files(run: Path) -> None:
    moved = (run / "onnx" / "model.onnx.data").rename(run.parent / "elsewhere")
    (run / "onnx" / "model.onnx.data").symlink_to(moved)
    with pytest.raises(gq.CheckpointError, match="link out of"):
        gq.verify(run / "onnx")


def without_hashes(path: Path) -> None:
    """As an earlier release wrote it."""
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in values.items() if name not in ("sha256", "files")}))


def test_what_has_no_hashes_is_told_with_a_code_of_its_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_hashes(run / "onnx" / MANIFEST)
    assert glmquant("verify", run / "onnx", "--quiet", "--json") == 4
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["verified"], told["files"], told["without_hashes"]) == (False, 0, [MANIFEST])
    assert "glmquant.json has no hashes" in captured.err


@follows("copy the directory again; if the change is yours, remove that line")
def test_a_manifest_that_somebody_edited_is_an_error_and_its_hint_works(run: Path) -> None:
    path = run / "onnx" / MANIFEST
    path.write_text(path.read_text().replace('"chatglm2-tiny"', '"chatglm2-tidy"', 1))
    with pytest.raises(gq.CheckpointError, match=r"changed since it was written[\s\S]*remove that line"):
        gq.verify(run / "onnx")
    first, _, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, *others]))
    assert gq.verify(run / "onnx").without_hashes == (MANIFEST,)


@pytest.mark.parametrize("place", ["", "no/such/directory"])
def test_what_glmquant_did_not_write_is_no_success(tmp_path: Path, place: str) -> None:
    with pytest.raises(gq.CheckpointError, match="there is no "):
        gq.verify(tmp_path / place)


def test_the_command_line_tells_both_ends(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("verify", run, "--quiet") == 0
    assert "files of" in capsys.readouterr().out
    cut(run / "onnx" / "genai.onnx")
    assert glmquant("verify", run, "--quiet") == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("glmquant: ")) == ("", 1)
    assert "'genai.onnx' is cut short" in captured.err


def test_a_bundle_of_a_checkpoint_that_glmquant_did_not_write_has_hashes_too(tmp_path: Path) -> None:
    bundle = gq.export(GOLDEN["chatglm2-tiny"], out=tmp_path / "onnx")
    assert gq.verify(bundle).files == len(files_in(bundle.path))


@follows("copy or download the bundle again, completely, or export the model again")
def test_opening_a_bundle_compares_lengths_and_hashes_no_weights(finished: Path, run: Path) -> None:
    data = run / "onnx" / "model.onnx.data"
    grow(data)
    with pytest.raises(gq.ExportError, match=r"model\.onnx\.data is not as long as it was written"):
        OnnxModel.open(run / "onnx")
    shutil.copy(finished / "onnx" / "model.onnx.data", data)
    assert OnnxModel.open(run / "onnx").info
    flip(data)
    assert OnnxModel.open(run / "onnx").info
    with pytest.raises(gq.CheckpointError, match="holds other bytes"):
        gq.verify(run / "onnx")
