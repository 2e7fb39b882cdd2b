"""What a killed run starts again from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.core.ranks import Ranks
from glmquant.errors import CheckpointError
from glmquant.streaming.activations import (
    LEAF_BATCHES,
    TOKENS_AT_ONCE,
    Activations,
    ActivationStore,
    embed_sequences,
    leaf_starts,
    own_batches,
    unfilled,
)
from glmquant.streaming.state import SavedStates
from tests.support.checkpoints import tiny_config

CONFIG = tiny_config()

STARTS = [2]
"""Of the longest sequence, with which the only leaf of :func:`stream` starts."""


def stream(seed: int) -> Activations:
    """Sequences of several lengths."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, CONFIG.vocab_size, length) for length in (3, 700, 900, 4, 800)]
    embedding = torch.randn(CONFIG.vocab_size, CONFIG.hidden_size, generator=torch.Generator().manual_seed(seed))
    return embed_sequences(ids, embedding, CONFIG)


@pytest.mark.parametrize("budget", [0, 1e9])
def test_both_streams_come_back(tmp_path: Path, budget: float) -> None:
    streams, states = [stream(0), stream(1)], SavedStates(tmp_path)
    assert len(streams[0].batches) > 1
    states.save(streams, 3)
    again = [unfilled(each.batches, CONFIG, ActivationStore(budget, tmp_path)) for each in streams]
    SavedStates(tmp_path).load(again, 3)
    for found, kept in zip(again, streams, strict=True):
        for batch in kept.batches:
            assert torch.equal(found.hidden.read(batch), kept.hidden.read(batch))


def test_a_later_state_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    states = SavedStates(tmp_path)
    assert states.furthest(STARTS) is None
    for layer in (1, 2):
        states.save([stream(0)], layer)
        assert states.furthest(STARTS) == layer
        states.drop_before(layer)
        assert len(list(tmp_path.iterdir())) == 1


def test_a_block_counts_when_every_rank_has_kept_its_leaves(tmp_path: Path) -> None:
    samples, length = 2 * LEAF_BATCHES + 1, TOKENS_AT_ONCE
    ranks = [Ranks(rank, 3) for rank in range(3)]
    shares = [unfilled(own_batches(samples, length, rank), CONFIG) for rank in ranks]
    states, starts = SavedStates(tmp_path), leaf_starts(samples, length)
    assert starts == [0, LEAF_BATCHES, 2 * LEAF_BATCHES]
    for share in shares:
        for batch in share.batches:
            share.hidden.write(batch, torch.full((1, length, CONFIG.hidden_size), float(batch.members[0])))
        assert states.furthest(starts) is None
        states.save([share], 1)
    assert states.furthest(starts) == 1
    states.save(shares[:1], 2)
    assert states.furthest(starts) == 1
    whole = unfilled(own_batches(samples, length, Ranks()), CONFIG)
    states.load([whole], 1)
    assert all((whole.hidden.read(batch) == batch.members[0]).all() for batch in whole.batches)


def test_what_was_not_finished_does_not_count_and_is_cleared(tmp_path: Path) -> None:
    states = SavedStates(tmp_path)
    states.save([stream(0)], 1)
    (tmp_path / "activations.2.2.state.unfinished").write_bytes(b"part")
    (tmp_path / "model-00001.safetensors").write_bytes(b"")
    assert states.furthest(STARTS) == 1
    states.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["model-00001.safetensors"]


def test_a_state_cut_short_is_an_error(tmp_path: Path) -> None:
    states, kept = SavedStates(tmp_path), stream(0)
    states.save([kept], 1)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="shorter than the samples"):
        states.load([kept], 1)


@pytest.mark.parametrize("place", [0, -1, -40])
def test_a_bit_that_flipped_in_a_state_is_an_error(tmp_path: Path, place: int) -> None:
    states, kept = SavedStates(tmp_path), stream(0)
    states.save([kept], 1)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no longer what"):
        states.load([kept], 1)
