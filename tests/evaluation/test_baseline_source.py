from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glmquant.errors import CalibrationError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.glm.block import Block
from glmquant.store.checkpoint import open_checkpoint
from glmquant.streaming import activations
from tests.support.models import TINY, TINY_GLM4, MemorySource, random_source, torch_logits

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = {"chatglm2-tiny": "chatglm2", "chatglm3-tiny": "chatglm3"}


def queries(*shapes: tuple[int, int], vocabulary: int = 200) -> list[Query]:
    rng = np.random.default_rng(0)
    return [Query(rng.integers(0, vocabulary, length), wanted) for length, wanted in shapes]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_gives_the_publishers_logits(name: str) -> None:
    expected = load_file(GOLDEN / name / "expected.safetensors")
    source = BaselineSource(open_checkpoint(GOLDEN / name, family=FAMILIES[name]))  # type: ignore[arg-type]
    rows = [Query(row.numpy(), 24) for row in expected["input_ids"]]
    rows.append(Query(expected["input_ids"][1, 7:].numpy(), 5))  # row 1 without the seven tokens that padding hides
    first, second, short = source.logits(rows)
    np.testing.assert_allclose(np.stack([first, second]), expected["logits"].numpy(), atol=1e-4)
    np.testing.assert_allclose(short, expected["logits_padded"][1, -5:].numpy(), atol=1e-4)
    assert first.dtype == np.float32


@pytest.mark.parametrize("config", [TINY, TINY_GLM4], ids=["glm", "glm4"])
def test_batches_of_any_size_give_the_same(config: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_source(config)  # type: ignore[arg-type]
    asked = queries((5, 1), (9, 9), (2, 2), (9, 3), (1, 1), (7, 2))
    for budget in (1, 12, 1000):
        monkeypatch.setattr(activations, "TOKENS_AT_ONCE", budget)
        for query, answer in zip(asked, BaselineSource(model).logits(asked), strict=True):
            tokens = torch.from_numpy(query.tokens).unsqueeze(0)
            whole = torch_logits(model, tokens)[0]
            assert answer.shape == (query.num_logits, 200)
            np.testing.assert_allclose(answer, whole[-query.num_logits :].numpy(), atol=1e-4)


@dataclass
class Watched:
    """A model that notes which block is loaded when."""

    model: MemorySource
    loads: list[int] = field(default_factory=list)

    def block(self, layer: int) -> Block:
        self.loads.append(layer)
        return self.model.block(layer)

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)


def test_each_block_is_loaded_once_and_progress_is_told() -> None:
    model, told = Watched(random_source()), []
    source = BaselineSource(model, lambda *step: told.append(step))  # type: ignore[arg-type]
    assert len(list(source.logits(queries((600, 1), (700, 1), (800, 1), (900, 1))))) == 4
    assert model.loads == [0, 1]
    assert [step[1:] for step in told] == [(0, 2), (1, 2), (2, 2)]


def test_nothing_asked_nothing_loaded() -> None:
    model = Watched(random_source())
    assert list(BaselineSource(model).logits([])) == []  # type: ignore[arg-type]
    assert model.loads == []


def test_a_token_outside_the_vocabulary() -> None:
    with pytest.raises(CalibrationError, match="token ids span 200 to 200"):
        next(BaselineSource(random_source()).logits([Query(np.array([200]), 1)]))
