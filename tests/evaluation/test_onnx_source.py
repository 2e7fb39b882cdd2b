from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.core.ranks import Ranks
from glmquant.evaluation import share as module
from glmquant.evaluation.onnx_source import OnnxSource
from glmquant.evaluation.share import Share
from glmquant.evaluation.source import Query
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from tests.evaluation.test_baseline_source import queries
from tests.support.models import MemorySource, random_source, torch_logits


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemorySource, OnnxModel]:
    directory: Path = tmp_path_factory.mktemp("bundle")
    model = random_source()
    export_bundle(model, ExportOptions(max_length=64), directory)
    return model, OnnxModel.open(directory, num_threads=1)


@pytest.mark.parametrize("tokens_at_once", [1, 20, 1000])
@pytest.mark.parametrize("rows_held", [1, 4, 1000])
def test_answers_come_in_order_whatever_the_batches(
    exported: tuple[MemorySource, OnnxModel],
    tokens_at_once: int,
    rows_held: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", tokens_at_once)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", rows_held * 200)
    asked = queries((5, 1), (9, 9), (2, 2), (9, 3), (1, 1), (7, 2), (3, 1))
    model, onnx = exported
    answers = OnnxSource(onnx).logits(asked)
    for query, answer in zip(asked, answers, strict=True):
        whole = torch_logits(model, torch.from_numpy(query.tokens).unsqueeze(0))[0]
        assert answer.shape == (query.num_logits, 200)
        np.testing.assert_allclose(answer, whole[-query.num_logits :].numpy(), atol=1e-4)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_ranks_answer_each_query_once_and_to_the_bit(
    exported: tuple[MemorySource, OnnxModel], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 20)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 12 * 200)
    asked = queries((5, 1), (9, 9), (2, 2), (9, 3), (1, 1), (7, 2), (3, 1), (4, 4), (4, 1), (3, 2))
    onnx = exported[1]
    alone = [answer.tobytes() for answer in OnnxSource(onnx).logits(asked)]
    found: dict[int, bytes] = {}
    for rank in range(count):
        numbers = Share(Ranks(rank, count), 200).numbers(asked)
        assert not found.keys() & set(numbers)
        answers = OnnxSource(onnx, Ranks(rank, count)).logits(asked)
        found |= zip(numbers, (answer.tobytes() for answer in answers), strict=True)
    assert [found[number] for number in range(len(asked))] == alone


def test_no_queries_no_answers(exported: tuple[MemorySource, OnnxModel]) -> None:
    assert list(OnnxSource(exported[1]).logits([])) == []


def test_equal_lengths_are_not_padded(
    exported: tuple[MemorySource, OnnxModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, int]] = []
    forward = OnnxModel.forward

    def watched(model: OnnxModel, ids: np.ndarray, mask: np.ndarray, *, keep: int = 0) -> np.ndarray:
        assert mask.all()
        shapes.append(ids.shape)
        return forward(model, ids, mask, keep=keep)

    monkeypatch.setattr(OnnxModel, "forward", watched)
    rows = [Query(np.arange(16), 15) for _ in range(70)]
    assert len(list(OnnxSource(exported[1]).logits(rows))) == 70
    assert shapes == [(64, 16), (6, 16)]
