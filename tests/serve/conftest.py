"""The demo model's bundle, served."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import assets
from tests.support.served import Served, served


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gq.export(assets.DEMO_MODEL, gq.load_recipe("int8-rtn"), out=tmp_path_factory.mktemp("demo") / "onnx").path


@pytest.fixture(scope="session")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(bundle, tmp_path_factory.mktemp("server"), "--port", 0, "--queue", 1) as running:
        yield running
