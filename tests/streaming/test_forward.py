"""The walk shows each block once, and the plain forward pass moves samples as the blocks alone do."""

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from glmquant.errors import CalibrationError, CheckpointError
from glmquant.glm.block import Block
from glmquant.glm.groups import block_groups
from glmquant.glm.parts.attention import split_heads
from glmquant.glm.rotary import rotary
from glmquant.streaming.activations import Activations, ActivationStore, embed, embed_sequences
from glmquant.streaming.forward import Forward, last_rows, walk
from tests.support.blocks import block_forward
from tests.support.models import TINY, TINY_GLM4, MemorySource, random_source

LENGTHS = (9, 3, 700, 1, 5, 690)


def sequences() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, TINY.vocab_size, length) for length in LENGTHS]


def alone(source: MemorySource, ids: np.ndarray) -> Tensor:
    """The residual stream ``[T, D]`` of one sequence by itself."""
    x = source.embedding_VD[torch.from_numpy(ids)].unsqueeze(0)
    rope = rotary(source.config, torch.arange(len(ids)).unsqueeze(0))
    for block in source.blocks:
        x = block_forward(x, block, source.config, rope)
    return x[0]


@pytest.mark.parametrize("budget", [0, 1e9])
@pytest.mark.parametrize("config", [TINY, TINY_GLM4], ids=["glm", "glm4"])
def test_each_sequence_comes_out_as_it_would_by_itself(tmp_path: Path, config: object, budget: float) -> None:
    source, ids = random_source(config), sequences()  # type: ignore[arg-type]
    activations = embed_sequences(ids, source.embedding(), source.config, ActivationStore(budget, tmp_path))
    walk(source.block, range(2), [activations], Forward())
    counts = [min(4, length) for length in LENGTHS]
    for found, one, count in zip(last_rows(activations, counts, LENGTHS), ids, counts, strict=True):
        torch.testing.assert_close(found, alone(source, one)[-count:], atol=1e-4, rtol=1e-4)


def test_keys_and_values_are_shown_in_order() -> None:
    source = random_source()
    tokens = torch.randint(0, 200, (3, 7), generator=torch.Generator().manual_seed(0))
    activations = embed(tokens, source.embedding(), source.config)
    (batch,) = activations.batches
    before = activations.hidden.read(batch).clone()
    keys: list[tuple[int, Tensor, Tensor]] = []
    walk(source.block, range(2), [activations], Forward(lambda layer, key, value: keys.append((layer, key, value))))
    first = source.blocks[0]
    qkv = first.linears()["self_attn.qkv_proj"](first.attention.read(before, source.config))
    _, key, value = split_heads(qkv, first.attention, activations.context(batch))
    assert [layer for layer, _, _ in keys] == [0, 1]
    torch.testing.assert_close(keys[0][1], key)
    torch.testing.assert_close(keys[0][2], value)


def test_products_in_bfloat16_change_little() -> None:
    source = random_source()
    tokens = torch.randint(0, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    outputs = []
    for dtype in (torch.float32, torch.bfloat16):
        activations = embed(tokens, source.embedding(), source.config, dtype=dtype)
        walk(source.block, range(2), [activations], Forward())
        (batch,) = activations.batches
        assert activations.hidden.read(batch).dtype == torch.float32
        outputs.append(activations.hidden.read(batch).clone())
    assert 0 < (outputs[1] - outputs[0]).norm() < 0.02 * outputs[0].norm()


class Freed:
    """Lets each block go, and notes which blocks are in memory then."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[Block]] = []
        self.visited: list[int] = []

    def load(self, layer: int) -> Block:
        block = random_source(seed=layer).blocks[0]
        copy = block.mapped(lambda linear: replace(linear, weight=linear.dense().clone()), lambda gain: gain.clone())
        self.made.append(weakref.ref(copy.linears()["mlp.down_proj"].weight))  # type: ignore[arg-type]
        return copy

    def visit(self, layer: int, block: Block, streams: Sequence[Activations]) -> None:
        assert self.made[layer]() is not None
        del block
        gc.collect()
        assert self.made[layer]() is None
        self.visited.append(layer)


def test_a_block_that_the_visitor_lets_go_is_gone_while_the_next_is_read() -> None:
    freed, told = Freed(), list[tuple[str, int, int]]()
    walk(
        freed.load,
        range(3),
        [],
        freed,
        progress=lambda *given: told.append(given),
        stage="working",
        total=3,
    )
    assert freed.visited == [0, 1, 2]
    assert told == [("working", done, 3) for done in range(4)]


def test_values_that_are_not_finite_stop_the_walk_with_the_block_that_made_them() -> None:
    source = random_source()
    bad = source.blocks[1].mapped(lambda linear: replace(linear, weight=linear.dense() * torch.inf), lambda gain: gain)
    activations = embed(torch.ones(1, 4, dtype=torch.int64), source.embedding(), source.config)
    with pytest.raises(CheckpointError, match=r"not finite\n  where: after layers\.1"):
        walk(lambda layer: (source.blocks[0], bad)[layer], range(2), [activations], Forward())


@pytest.mark.parametrize("token", [-1, 200])
def test_token_ids_of_another_model_are_refused(token: int) -> None:
    source = random_source()
    with pytest.raises(CalibrationError, match="token ids span"):
        embed(torch.tensor([[0, token]]), source.embedding(), source.config)
    with pytest.raises(CalibrationError, match="token ids span"):
        embed_sequences([np.array([0, token])], source.embedding(), source.config)


def test_a_part_shows_the_inputs_of_its_linear_layers_in_order() -> None:
    source = random_source()
    tokens = torch.randint(0, 200, (3, 7), generator=torch.Generator().manual_seed(0))
    activations = embed(tokens, source.embedding(), source.config)
    (batch,) = activations.batches
    hidden = activations.hidden.read(batch)
    shown: dict[str, Tensor] = {}
    for part in source.blocks[0].parts:
        scope = f"layers.0.{part.kind.scope}."
        part.forward(
            hidden, activations.context(batch), on_input=lambda name, x, scope=scope: shown.update({scope + name: x})
        )
    assert list(shown) == [group.name for group in block_groups(source.config, 0)]
    read = source.blocks[0].attention.read(hidden, source.config)
    torch.testing.assert_close(shown["layers.0.self_attn.qkv_proj"], read)
