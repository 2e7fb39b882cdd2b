"""A bundle's speed and memory are its own process's."""

from pathlib import Path

import numpy as np
import pytest

import glmquant as gq
from glmquant import assets
from glmquant.pipeline.speed import NEW_TOKENS, PROMPT_TOKENS, measure_apart
from tests.support.paths import CHATGLM2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gq.export(assets.DEMO_MODEL, "int8-rtn", out=tmp_path_factory.mktemp("demo") / "onnx").path


def test_memory_is_what_the_bundle_needs_whatever_this_process_holds(bundle: Path) -> None:
    held = np.ones(400 << 20, np.uint8)
    speed = measure_apart(bundle)
    assert speed is not None
    assert (speed.prompt_tokens, speed.new_tokens) == (PROMPT_TOKENS, NEW_TOKENS)
    assert speed.prompt_seconds > 0 < speed.new_seconds
    assert 10 << 20 < speed.peak_bytes < held.nbytes


def test_a_bundle_too_small_to_tell_anything_is_not_measured(tmp_path: Path) -> None:
    assert measure_apart(gq.export(CHATGLM2, "int8-rtn", out=tmp_path / "onnx").path) is None
