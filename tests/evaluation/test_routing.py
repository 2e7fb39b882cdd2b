"""Routing agreement counts tokens whose set of experts differs, layer by layer, each model on its own stream."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.errors import CheckError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.routing import compare_routing, routes
from glmquant.evaluation.source import Query
from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.model import ModelSource
from glmquant.glm.parts.routing import Router
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.models import random_source
from tests.support.moe import write_moe

rng = np.random.default_rng(0)
SEQUENCES = [rng.integers(3, 160, length) for length in (30, 7, 19)]
TOKENS = sum(map(len, SEQUENCES))
LAST = 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    directory = tmp_path_factory.mktemp("routing")
    write_moe(directory, "glm4_moe_lite")
    return open_checkpoint(directory)


class Rerouted:
    """The model with the router of one layer changed."""

    def __init__(self, model: ModelSource, layer: int, change: Callable[[Router], Router]) -> None:
        self._layer, self._change = layer, change
        self._model = model
        self.config: GlmConfig = model.config
        self.embedding, self.final_norm, self.head = model.embedding, model.final_norm, model.head

    def block(self, layer: int) -> Block:
        block = self._model.block(layer)
        if layer != self._layer:
            return block
        assert block.mlp.experts is not None
        experts = replace(block.mlp.experts, router=self._change(block.mlp.experts.router))
        return replace(block, mlp=replace(block.mlp, experts=experts))


def test_a_model_agrees_with_itself_and_every_token_meets_its_experts(checkpoint: Checkpoint) -> None:
    layers = compare_routing(checkpoint, checkpoint, SEQUENCES)
    assert [each.layer for each in layers] == [1, 2]
    for each in layers:
        assert each.differing == 0
        assert each.tokens_S.tolist() == [30, 7, 19]
        assert each.baseline_load_X.sum() == each.candidate_load_X.sum() == 3 * TOKENS


def test_experts_that_bias_forces_are_counted_for_every_token(checkpoint: Checkpoint) -> None:
    def force(router: Router) -> Router:
        return replace(router, bias_X=torch.tensor([9.0, 9.0, 9.0, 0, 0, 0, 0, 0]))

    def force_others(router: Router) -> Router:
        return replace(router, bias_X=torch.tensor([9.0, 9.0, 0, 9.0, 0, 0, 0, 0]))

    before, after = Rerouted(checkpoint, LAST, force), Rerouted(checkpoint, LAST, force_others)
    first, last = compare_routing(before, after, SEQUENCES)
    assert first.differing == 0
    assert last.differing == 1
    assert last.differing_S.tolist() == [30, 7, 19]
    assert last.baseline_load_X.tolist() == [TOKENS, TOKENS, TOKENS, 0, 0, 0, 0, 0]
    assert last.candidate_load_X.tolist() == [TOKENS, TOKENS, 0, TOKENS, 0, 0, 0, 0]


def test_the_order_of_a_tokens_experts_does_not_count(checkpoint: Checkpoint) -> None:
    """Scores fall in one model and rise in the other; the same experts are forced."""
    bias_X = torch.tensor([9.0, 9.0, 9.0, 0, 0, 0, 0, 0])
    before = Rerouted(checkpoint, LAST, lambda router: replace(router, bias_X=bias_X))
    after = Rerouted(checkpoint, LAST, lambda router: replace(router, bias_X=bias_X, weight_XD=-router.weight_XD))
    _, last = compare_routing(before, after, SEQUENCES)
    assert last.differing == 0


def test_renumbered_experts_renumber_the_load(checkpoint: Checkpoint) -> None:
    """Only tokens whose set is the same under the new numbers agree."""
    order = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
    after = Rerouted(
        checkpoint, LAST, lambda router: replace(router, bias_X=router.bias_X[order], weight_XD=router.weight_XD[order])
    )
    first, last = compare_routing(checkpoint, after, SEQUENCES)
    assert first.differing == 0
    assert last.differing == 1  # three of eight experts in a row are never the same three one further
    assert last.candidate_load_X.tolist() == last.baseline_load_X[order.numpy()].tolist()


def test_an_early_change_reaches_the_layers_behind(checkpoint: Checkpoint) -> None:
    after = Rerouted(checkpoint, 1, lambda router: replace(router, bias_X=router.bias_X.flip(0)))
    first, last = compare_routing(checkpoint, after, SEQUENCES)
    assert first.differing > 0
    assert last.differing > 0


def test_a_source_of_logits_notes_the_experts_that_routed_queries_meet(checkpoint: Checkpoint) -> None:
    source = BaselineSource(checkpoint)
    queries = [Query(ids_T, 1, routed=number != 1) for number, ids_T in enumerate(SEQUENCES)]
    assert len(list(source.logits(queries))) == 3
    expected = routes(checkpoint, [SEQUENCES[0], SEQUENCES[2]])
    assert source.routes is not None
    for layer in (1, 2):
        for found, one in zip(source.routes.chosen[layer], expected.chosen[layer], strict=True):
            assert torch.equal(found, one)
    list(source.logits([Query(SEQUENCES[1], 1)]))
    assert source.routes is None


def test_a_model_without_experts_has_no_routing() -> None:
    source = random_source()
    assert compare_routing(source, source, SEQUENCES) == ()


def test_models_with_other_experts_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_moe(tmp_path, "glm4_moe_lite", n_routed_experts=4)
    with pytest.raises(CheckError, match="same experts"):
        compare_routing(checkpoint, open_checkpoint(tmp_path), SEQUENCES)
