"""What a killed run left is known to be what it wrote before another run goes on from it."""

import hashlib
import logging
import os
from pathlib import Path

import pytest

from glmquant.core.untrusted import read_bytes
from glmquant.errors import CheckpointError, OutputError
from glmquant.glm.block import Block
from glmquant.store.artifact import ArtifactWriter, seal
from glmquant.store.checkpoint import open_checkpoint
from glmquant.store.hashes import HASHES, WrittenHashes
from glmquant.store.manifest import MANIFEST, read_manifest
from glmquant.store.output import MARKER, output_directory
from tests.store.test_artifact import INT4, plan_of, records_of, source_of, write_all
from tests.support.checkpoints import assert_same_block, random_block, random_float, tiny_config

CONFIG = tiny_config(layers=2)
PLAN = plan_of(CONFIG, INT4)


def block(layer: int) -> Block:
    return random_block(CONFIG, layer, PLAN)


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    writer = ArtifactWriter(tmp_path, CONFIG, PLAN)
    writer.write_embedding(random_float(CONFIG.vocab_size, CONFIG.hidden_size, seed=9))
    for layer in range(2):
        writer.write_block(layer, block(layer), records_of(CONFIG, layer, PLAN))
    return tmp_path


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


def shard(directory: Path, piece: int) -> Path:
    return directory / f"model-{piece + 1:05}-of-00004.safetensors"


def test_what_was_written_is_known(unfinished: Path) -> None:
    noted = WrittenHashes(unfinished).noted()
    assert noted == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in unfinished.glob("*.safetensors")}
    ArtifactWriter(unfinished, CONFIG, PLAN).drop_damaged(2)
    assert len(list(unfinished.glob("*.safetensors"))) == 3


@pytest.mark.parametrize("at", [0, 9, -1])
def test_a_block_that_changed_behind_the_run_is_told_and_stays_until_it_is_written_again(
    unfinished: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = shard(unfinished, 1).read_bytes()
    flip(shard(unfinished, 1), at)
    writer = ArtifactWriter(unfinished, CONFIG, PLAN)
    assert writer.drop_damaged(1) == (0,)
    assert "model-00002-of-00004.safetensors is no longer what the unfinished run wrote" in caplog.text
    other = random_block(CONFIG, 1, PLAN)
    with pytest.raises(CheckpointError, match=r"model-00002-of-00004\.safetensors .* comes out differently now"):
        writer.rewrite_block(0, other, records_of(CONFIG, 0, PLAN))
    assert writer.drop_damaged(1) == (0,)
    writer.rewrite_block(0, block(0), records_of(CONFIG, 0, PLAN))
    assert shard(unfinished, 1).read_bytes() == whole
    assert writer.drop_damaged(1) == ()


def test_a_block_is_read_back_from_an_unfinished_run(unfinished: Path) -> None:
    for layer in range(2):
        assert_same_block(ArtifactWriter(unfinished, CONFIG, PLAN).read_block(layer), block(layer))


def test_notes_that_changed_know_nothing(unfinished: Path) -> None:
    flip(unfinished / HASHES, 100)
    assert WrittenHashes(unfinished).noted() == {}


@pytest.mark.parametrize(("piece", "first"), [(0, 2), (1, 0), (2, 1)])
def test_what_can_be_written_again_is(
    unfinished: Path, piece: int, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    flip(shard(unfinished, piece), -1)
    with caplog.at_level(logging.WARNING):
        ArtifactWriter(unfinished, CONFIG, PLAN).drop_damaged(first)
    assert not shard(unfinished, piece).exists()
    assert len(list(unfinished.glob("*.safetensors"))) == 2
    assert shard(unfinished, piece).name in caplog.text


def test_a_piece_that_nobody_noted_is_damaged(unfinished: Path) -> None:
    """Another's, or one whose hash was lost."""
    (unfinished / HASHES).unlink()
    assert len(WrittenHashes(unfinished).damaged(path.name for path in unfinished.glob("*.safetensors"))) == 3


def test_a_finished_artifact_holds_no_notes_and_is_taken_as_it_is(tmp_path: Path) -> None:
    source = source_of(tmp_path, CONFIG)
    (tmp_path / "out").mkdir()
    write_all(tmp_path / "out", source, PLAN)
    seal(tmp_path / "out")
    assert not (tmp_path / "out" / HASHES).exists()
    sealed = (tmp_path / "out" / MANIFEST).read_bytes()
    writer = ArtifactWriter(tmp_path / "out", CONFIG, PLAN)
    writer.drop_damaged(0)
    assert writer.has_all
    write_all(tmp_path / "out", source, PLAN)
    seal(tmp_path / "out")
    assert (tmp_path / "out" / MANIFEST).read_bytes() == sealed


def test_what_changed_in_a_finished_artifact_before_it_got_its_name_is_found(tmp_path: Path) -> None:
    """Its hashes are in its manifest by then."""
    source = source_of(tmp_path, CONFIG)
    (tmp_path / "out").mkdir()
    write_all(tmp_path / "out", source, PLAN)
    seal(tmp_path / "out")
    flip(shard(tmp_path / "out", 1), -1)
    ArtifactWriter(tmp_path / "out", CONFIG, PLAN).drop_damaged(0)
    assert not shard(tmp_path / "out", 1).exists()


def test_an_input_that_goes_away_leaves_the_work(tmp_path: Path) -> None:
    def work() -> None:
        with output_directory(tmp_path / "out", resume_key="k") as partial:
            (partial / "model-00001.safetensors").write_bytes(b"work of hours")
            read_bytes(tmp_path / "away", 10)

    with pytest.raises(CheckpointError, match="cannot read"):
        work()
    assert (tmp_path / "out.partial" / "model-00001.safetensors").read_bytes() == b"work of hours"


@pytest.mark.parametrize("is_written", [True, False])
def test_bad_input_leaves_nothing(tmp_path: Path, is_written: bool) -> None:
    def work() -> None:
        with output_directory(tmp_path / "out", resume_key="k") as partial:
            if not is_written:
                read_bytes(tmp_path / "away", 10)
            (partial / "model-00001.safetensors").write_bytes(b"work")
            raise CheckpointError("bad")

    with pytest.raises(CheckpointError):
        work()
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_given_as_the_output_keeps_its_marker(tmp_path: Path) -> None:
    partial = tmp_path / "x.partial"
    partial.mkdir()
    (partial / MARKER).write_text('{"resume_key": "k"}\n')
    (partial / "model-00001.safetensors").write_bytes(b"work of hours")
    with pytest.raises(OutputError), output_directory(partial):
        pass
    assert (partial / MARKER).exists()
    assert (partial / "model-00001.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="names there are Unicode")
def test_a_model_whose_name_is_no_utf8_has_a_name_that_can_be_written(tmp_path: Path) -> None:
    """It was found out only when all was quantized, and again by every resumed run."""
    named = tmp_path / os.fsdecode(b"mod\xe8le")
    source = source_of(named, CONFIG)
    source.path.rename(named / os.fsdecode(b"\xe8"))
    opened = open_checkpoint(named / os.fsdecode(b"\xe8"))
    assert opened.source_name == "\ufffd"
    (tmp_path / "out").mkdir()
    write_all(tmp_path / "out", opened, PLAN)
    assert read_manifest(tmp_path / "out" / "glmquant.json").source_name == "\ufffd"
