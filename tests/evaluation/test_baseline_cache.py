"""What decides a cached baseline's name: whatever would make its answers others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.core.device import CPU
from glmquant.errors import CheckError
from glmquant.evaluation.baseline_cache import Answers, BaselineCache
from glmquant.evaluation.source import Query
from tests.support.checkpoints import tiny_config

CONFIG = tiny_config(layers=1)
QUERY = Query(np.array([5, 6, 7]), 2)


def test_another_checkpoint_or_device_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Else a model would be checked against another one, and the report would not show it."""
    caches = [
        BaselineCache(tmp_path, "a", CONFIG, CPU),
        BaselineCache(tmp_path, "b", CONFIG, CPU),
        BaselineCache(tmp_path, "a", CONFIG, torch.device("cuda")),
    ]
    assert len({cache.path([QUERY]) for cache in caches}) == 3


def test_another_question_has_a_file_of_its_own(tmp_path: Path) -> None:
    cache = BaselineCache(tmp_path, "a", CONFIG)
    questions = [
        [QUERY],
        [replace(QUERY, num_logits=1)],
        [replace(QUERY, routed=True)],
        [replace(QUERY, tokens=np.array([5, 6, 8]))],
        [replace(QUERY, tokens=QUERY.tokens[:2]), replace(QUERY, tokens=QUERY.tokens[2:], num_logits=1)],
        [QUERY, QUERY],
    ]
    assert len({cache.path(asked) for asked in questions}) == len(questions)


def test_what_was_kept_comes_back_and_nothing_that_another_model_said(tmp_path: Path) -> None:
    cache = BaselineCache(tmp_path / "made", "a", CONFIG)
    assert cache.read([QUERY]) is None
    rows = torch.randn(2, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))
    cache.write([QUERY, QUERY], Answers([rows, 2 * rows]))
    found = cache.read([QUERY, QUERY])
    assert found is not None
    assert [torch.equal(one, other) for one, other in zip(found.rows, (rows, 2 * rows), strict=True)] == [True, True]
    wider = replace(CONFIG, hidden_size=2 * CONFIG.hidden_size)
    with pytest.raises(CheckError, match="damaged"):
        BaselineCache(tmp_path / "made", "a", wider).read([QUERY, QUERY])
