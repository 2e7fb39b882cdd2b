"""Any number of ranks writes what one process writes."""

import os
import random
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from glmquant import api, assets
from glmquant.data.calibration import CalibrationSet
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import open_checkpoint
from tests.quantization.test_threads import scaled
from tests.support.checkpoints import tiny_config, tiny_sparse_config, write_checkpoint
from tests.support.paths import contents
from tests.support.ranks import ENVIRONMENT, SECONDS, command, torchrun

WORKER = Path(__file__).parent / "ranks_worker.py"
SAMPLES, LENGTH = 17, 1024
"""A leaf is eight batches of two samples: two leaves, the second one short."""
FEW = 3
"""Samples that leave all ranks but one without any."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds, with rows for several slices."""
    directory = tmp_path_factory.mktemp("models")
    for name, config in (("dense", tiny_config()), ("sparse", tiny_sparse_config())):
        wide = replace(config, intermediate_size=1056, max_position_embeddings=LENGTH)
        write_checkpoint(directory / name, wide, scaled(wide))
    return directory


def alone(model: Path, recipe: str, count: int, out: Path) -> dict[str, bytes]:
    checkpoint = open_checkpoint(model)
    out.mkdir()
    quantize(checkpoint, make_plan(load_recipe(recipe, {}), checkpoint.config), samples(count), out)
    return contents(out)


def samples(count: int) -> CalibrationSet:
    tokens = torch.randint(0, 150, (count, LENGTH), generator=torch.Generator().manual_seed(1))
    return CalibrationSet(tokens, (), "0" * 64, 0)


CHANGES = ((1, 2), (2, 1), (2, 3), (2, 4), (3, 1), (3, 2), (3, 4), (4, 1), (4, 2), (4, 3)) * 2
"""Numbers of ranks before and after: twenty kills, and ten more that torchrun itself restarts."""


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


CASES = [
    ("dense", "int4-g128-gptq", 2, SAMPLES),
    ("sparse", "moe-int4-g128-gptq", 2, FEW),
    slow("dense", "int4-g128-gptq", 3, SAMPLES),
    slow("dense", "int4-g128-gptq", 4, SAMPLES),
    slow("dense", "int4-auto-4.25", 2, SAMPLES),
    slow("dense", "int8-rtn", 2, SAMPLES),
    slow("sparse", "moe-int4-g128-gptq", 3, SAMPLES),
    slow("sparse", "moe-int4-g128-gptq", 2, SAMPLES),
    slow("sparse", "moe-int2-g64-gptq", 4, SAMPLES),
]


@pytest.mark.parametrize(("kind", "recipe", "ranks", "count"), CASES)
def test_ranks_write_what_one_process_writes(
    model: Path, tmp_path: Path, kind: str, recipe: str, ranks: int, count: int
) -> None:
    expected = alone(model / kind, recipe, count, tmp_path / "alone")
    (tmp_path / "shared").mkdir()
    done = torchrun(ranks, WORKER, model / kind, recipe, count, tmp_path / "shared")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "shared") == expected


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the packaged model: two leaves."""
    out = tmp_path_factory.mktemp("calibration") / "samples"
    options = ["calibration.num_samples=33", "calibration.seq_len=512"]
    api.calibrate(assets.DEMO_MODEL, load_recipe("int4-g128-gptq", overrides(options)), out=out)
    return out


def overrides(pairs: list[str]) -> dict[str, int]:
    return {name: int(value) for name, value in (pair.split("=") for pair in pairs)}


def quantizing(calibration: Path, out: Path) -> list[object]:
    model = ["-m", "glmquant", "quantize", assets.DEMO_MODEL, "--recipe", "int4-g128-gptq"]
    return [*model, "--calibration", calibration, "--out", out]


@pytest.fixture(scope="module")
def expected(calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("alone") / "out"
    api.quantize(assets.DEMO_MODEL, "int4-g128-gptq", calibration, out=out)
    return contents(out)


def killed(ranks: int, arguments: list[object], out: Path, chance: random.Random, **options: object) -> int:
    """The exit code of torchrun where one of the ranks is killed after the first block, at a moment of chance."""
    environment = os.environ | ENVIRONMENT
    with subprocess.Popen(
        command(ranks, *arguments, **options), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as started:
        partial = out.with_name(out.name + ".partial")
        while started.poll() is None and not list(partial.glob("activations.1.*.state")):
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 1.5))
        workers = psutil.Process(started.pid).children() if started.poll() is None else []
        if workers:
            with suppress(psutil.NoSuchProcess):
                chance.choice(workers).kill()
        started.communicate(timeout=SECONDS)
        return started.returncode


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "seed"), [(*each, seed) for seed, each in enumerate(CHANGES)])
def test_any_number_of_ranks_takes_up_what_killed_ones_left(
    calibration: Path, expected: dict[str, bytes], tmp_path: Path, before: int, after: int, seed: int
) -> None:
    out = tmp_path / "out"
    if killed(before, quantizing(calibration, out), out, random.Random(seed)):
        assert not out.exists()
        done = torchrun(after, *quantizing(calibration, out))
        assert done.returncode == 0, done.stderr
    assert contents(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_torchrun_restarts_ranks_that_go_on(
    calibration: Path, expected: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "out"
    assert killed(2, quantizing(calibration, out), out, random.Random(seed), max_restarts=1) == 0
    assert contents(out) == expected
