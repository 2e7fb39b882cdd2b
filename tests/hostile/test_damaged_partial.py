"""A run that goes on from what a killed one left, of which a bit flipped: the same bytes as without, at little cost."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmquant import assets
from glmquant.data.calibration import CalibrationSet
from glmquant.quantization import block_pass
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.hashes import HASHES
from tests.support.moe import write_moe
from tests.support.paths import contents

GPTQ = {"kind": "gptq", "damping": 0.1}
SMALL: dict[str, Any] = {
    "rules": [
        {"match": "lm_head", "keep": True},
        {"match": "layers.*", "spec": {"bits": 4, "group_size": 32}, "method": GPTQ},
    ]
}
ALLOCATED: dict[str, Any] = {
    "allocate": {"average_bits": 5},
    "rules": [
        {"match": "lm_head", "keep": True},
        {
            "match": "layers.*",
            "spec": {"bits": 4, "group_size": 32},
            "alternatives": [{"bits": 8, "group_size": 32}],
            "method": GPTQ | {"act_order": True},
        },
    ],
}
STOP = 3
"""Block at which the run is stopped."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "one stream": ("demo", SMALL),
    "two streams, equalized": ("demo", SMALL | {"fit.error_propagation": 0.5, "fit.equalize": True}),
    "act-order, split, allocated": ("demo", ALLOCATED | {"store.layout": "split"}),
    "routed experts": ("moe", SMALL | {"fit.error_propagation": 0.5}),
}


class Partial:
    """What a run left that was stopped before its block :data:`STOP`, and what it would have written."""

    def __init__(self, directory: Path, case: str) -> None:
        model, settings = CASES[case]
        path = Path(assets.DEMO_MODEL)
        if model == "moe":
            write_moe(path := directory / "moe", "glm4_moe", draft=False, num_hidden_layers=4)
        self.checkpoint: Checkpoint = open_checkpoint(path)
        self.plan = make_plan(load_recipe(None, settings), self.checkpoint.config)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(3, self.checkpoint.config.vocab_size - 8, (4, 24), generator=generator)
        self.samples = CalibrationSet(tokens, (), "ab" * 32, 0)
        self.left, self.whole = directory / "left", directory / "whole"
        for out in (self.left, self.whole):
            out.mkdir()
        self.go_on(self.whole)
        with pytest.raises(KeyboardInterrupt):
            self.go_on(self.left, stop)

    def go_on(self, out: Path, progress: Callable[[str, int, int], None] = lambda *_: None) -> list[int]:
        """Blocks that were quantized."""
        return list(quantize(self.checkpoint, self.plan, self.samples, out, progress))


def stop(stage: str, done: int, total: int) -> None:
    if stage == "quantizing" and done == STOP:
        raise KeyboardInterrupt


@pytest.fixture(scope="module", params=CASES)
def partial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Partial:
    return Partial(tmp_path_factory.mktemp("partial"), request.param)


def flip(path: Path, place: float = 0.7) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 8
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damaged",
    [["model-00003-*"], ["model-00002-*", "activations.*.state"], [HASHES]],
    ids=["block", "block and activations", "hashes"],
)
def test_what_it_wrote_is_the_same_and_other_blocks_are_not_quantized_again(
    partial: Partial,
    damaged: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = Path(shutil.copytree(partial.left, tmp_path / "out"))
    for pattern in damaged:
        (path,) = out.glob(pattern)
        flip(path)
    fitted: list[str] = []
    original = block_pass.quantize_linear

    def counted(name: str, *arguments: Any) -> Any:
        fitted.append(name)
        return original(name, *arguments)

    monkeypatch.setattr(block_pass, "quantize_linear", counted)
    with caplog.at_level(logging.WARNING):
        done = partial.go_on(out)
    assert caplog.records
    assert contents(out) == {name: data for name, data in contents(partial.whole).items() if name != HASHES} | {
        HASHES: (out / HASHES).read_bytes()
    }
    again = {int(name.split(".")[1]) for name in fitted if name.startswith("layers.")} - set(done)
    if damaged != [HASHES]:
        assert again == {int(pattern[6:11]) - 2 for pattern in damaged if pattern.startswith("model")}
