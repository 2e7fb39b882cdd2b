"""A pipe, an endless device or a loop in place of a file that is read: refused before it is opened."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glmquant.core.device import CPU
from glmquant.core.untrusted import require_regular
from glmquant.data.labeled_directory import directory_texts
from glmquant.data.reading import Reading
from glmquant.errors import GlmQuantError
from glmquant.evaluation.baseline_cache import BaselineCache
from glmquant.evaluation.source import Query
from glmquant.evaluation.stored_baseline import open_stored_baseline
from glmquant.recipe.load import load_recipe
from glmquant.reports.read import read_report
from glmquant.runtime.session import require_bundle
from glmquant.store.calibration import read_calibration
from glmquant.store.manifest import read_manifest
from glmquant.store.safetensors_file import read_safetensors
from glmquant.store.torch_bin import read_torch_bin

KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path),
    "directory": lambda path: path.mkdir(),
}


def cached(path: Path) -> None:
    queries = [Query(np.array([1, 2]), 1)]
    cache = BaselineCache(path.parent, "fingerprint", CPU)
    path.rename(cache.path(queries))
    cache.read(queries)


def labels(path: Path) -> None:
    path.with_name("a.txt").write_text("text\n")
    path.rename(path.with_name("b.txt"))
    list(directory_texts(path.parent, Reading()))


def bundle_with(name: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        path.rename(path.with_name(name))
        if name != "model.onnx":
            path.with_name("model.onnx").write_bytes(b"")
        require_bundle(path.parent)

    return read


def calibration(path: Path) -> None:
    path.rename(path.with_name("calibration.json"))
    read_calibration(path.parent)


READERS: dict[str, Callable[[Path], object]] = {
    "guard": require_regular,
    "safetensors": read_safetensors,
    "bin": read_torch_bin,
    "report": read_report,
    "recipe": load_recipe,
    "manifest": read_manifest,
    "baseline": open_stored_baseline,
    "cache": cached,
    "labels": labels,
    "calibration": calibration,
    "graph": bundle_with("model.onnx"),
    "weights": bundle_with("model.onnx.data"),
    "settings": bundle_with("genai_config.json"),
    "origin": bundle_with("glmquant.json"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str, reader: Callable[[Path], object]) -> None:
    KINDS[kind](tmp_path / "file")
    with pytest.raises(GlmQuantError):
        reader(tmp_path / "file")
