"""A hub with a checkpoint on it, and a cache of one's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.hub import Hub, Repository, running
from tests.support.paths import CHATGLM2

USELESS = (
    "docs/README.md",
    "modeling_chatglm.py",
    "model.onnx",
    "model.Q4_0.gguf",
    "paper.pdf",
    "cat.png",
    "assets/a.json",
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """``THUDM/chatglm2-6b``, a tiny one; the cache is ``CACHE``, empty, and so is the working directory."""
    for name in ("MODELSCOPE_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    with running() as hub:
        hub.repositories["THUDM/chatglm2-6b"] = Repository.of(CHATGLM2, *USELESS)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)  # as ENDPOINT was at the import
        yield hub


@pytest.fixture
def cache(hub: Hub, tmp_path: Path) -> Path:
    return tmp_path / "cache"
