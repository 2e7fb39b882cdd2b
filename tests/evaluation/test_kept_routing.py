"""One walk through a float checkpoint gives logits and routing, and what is kept of it answers both again."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import glmquant as gq
from glmquant import assets
from glmquant.evaluation.baseline_cache import BaselineCache
from glmquant.evaluation.source import Query
from glmquant.store.checkpoint import open_checkpoint
from glmquant.store.sealed_tensors import write_sealed
from glmquant.store.tensors import StoredTensor
from tests.support.moe import write_moe

SHAPES = {
    "vocab_size": 5440,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
}
RULES = {"rules": [{"match": "layers.*.experts", "spec": {"bits": 4, "group_size": 32}, "method": {"kind": "rtn"}}]}
TEXT = {"check.num_tokens": 256, "check.seq_len": 32, "check.limits.routing_change": 0.9}
LAYERS, TOKENS, PER_TOKEN = 2, 8 * (2 + 31), 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("float") / "model"
    write_moe(directory, "glm4_moe_lite", **SHAPES)
    open_checkpoint(assets.DEMO_MODEL).tokenizer.save(directory)
    return directory


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> gq.OnnxBundle:
    out = tmp_path_factory.mktemp("candidate")
    recipe = gq.load_recipe(None, {**RULES, "export.kv_cache": "float"})
    quantized = gq.quantize(model, recipe, out=out / "quantized")
    return gq.export(quantized, recipe, out=out / "onnx")


@pytest.fixture(scope="module")
def uncached(model: Path, bundle: gq.OnnxBundle) -> str:
    return checked(bundle, model)


@pytest.fixture(scope="module")
def cache(model: Path, bundle: gq.OnnxBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    checked(bundle, model, cache=directory)
    return directory


@pytest.fixture(scope="module")
def stored(model: Path, bundle: gq.OnnxBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "float.safetensors"
    checked(bundle, model, save_baseline=path)
    return path


def checked(bundle: gq.OnnxBundle, baseline: Path, **more: Any) -> str:
    text = "glmquant:held-out-en.txt"
    return gq.check(bundle, baseline=baseline, recipe=gq.load_recipe(None, TEXT), text=text, **more).to_json()


@contextmanager
def reads_of(directory: Path) -> Iterator[Counter[str]]:
    """Counts how often each tensor of a checkpoint is read, while it is read."""
    counts: Counter[str] = Counter()
    read_into = StoredTensor.read_into

    def counted(self: StoredTensor, out: Tensor, rows: tuple[int, int] | None = None) -> None:
        if self.path.is_relative_to(directory):
            counts[self.name] += 1
        read_into(self, out, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoredTensor, "read_into", counted)
        yield counts


def test_the_checkpoint_is_read_once_for_logits_and_routing(model: Path, bundle: gq.OnnxBundle, uncached: str) -> None:
    with reads_of(model) as counts:
        assert checked(bundle, model) == uncached
    experts = {name: times for name, times in counts.items() if ".experts." in name or ".gate.weight" in name}
    assert len(experts) == LAYERS * (4 * 3 + 1)
    assert set(experts.values()) == {1}
    assert counts["model.embed_tokens.weight"] == 1
    assert '"routing_change"' in uncached


def test_nothing_but_the_head_is_read_where_a_cache_answers(
    model: Path, bundle: gq.OnnxBundle, uncached: str, cache: Path
) -> None:
    with reads_of(model) as counts:
        assert checked(bundle, model, cache=cache) == uncached
    assert set(counts) == {"model.norm.weight", "lm_head.weight"}


def test_a_stored_baseline_answers_without_the_checkpoint(
    model: Path, bundle: gq.OnnxBundle, uncached: str, cache: Path, stored: Path, tmp_path: Path
) -> None:
    with reads_of(model) as counts:
        assert checked(bundle, stored) == uncached
    assert not counts
    checked(bundle, model, cache=cache, save_baseline=tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == stored.read_bytes()


def test_routing_takes_two_bytes_for_each_expert_of_a_token_and_layer(cache: Path, stored: Path) -> None:
    (kept,) = cache.iterdir()
    for path in (kept, stored):
        experts = load_file(path)["experts"]
        assert experts.shape == (LAYERS, TOKENS, PER_TOKEN)
        assert experts.dtype == torch.int16


def _first(value: int) -> Callable[[Tensor], Tensor]:
    return lambda experts: experts.index_fill(1, torch.tensor([5]), value)


DAMAGES: dict[str, Callable[[Tensor], Tensor | None]] = {
    "missing": lambda _: None,
    "of fewer tokens": lambda experts: experts[:, 1:].clone(),
    "of fewer layers": lambda experts: experts[1:].clone(),
    "of another number of experts a token": lambda experts: experts[..., :1].clone(),
    "in another dtype": lambda experts: experts.long(),
    "in descending order": lambda experts: experts.flip(-1),
    "one expert twice": _first(1),
    "experts that there are not": lambda experts: experts + 4,
    "negative numbers": lambda experts: experts - 4,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_routing_is_one_clear_error(
    model: Path, bundle: gq.OnnxBundle, cache: Path, stored: Path, tmp_path: Path, damage: Any
) -> None:
    (kept,) = cache.iterdir()
    damaged(kept, tmp_path / kept.name, damage)
    with pytest.raises(gq.CheckError, match="a cached baseline is damaged: experts of tokens") as caught:
        checked(bundle, model, cache=tmp_path)
    assert caught.value.hint == "remove the file"
    damaged(stored, tmp_path / "float.safetensors", damage)
    with pytest.raises(gq.CheckError, match="the stored baseline is damaged: experts of tokens"):
        checked(bundle, tmp_path / "float.safetensors")


def damaged(path: Path, to: Path, damage: Callable[[Tensor], Tensor | None]) -> None:
    """With a hash that is right again, as of a file that was written so."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    changed = damage(tensors.pop("experts"))
    write_sealed(to, tensors if changed is None else tensors | {"experts": changed}, metadata)


def test_what_another_model_said_is_refused(
    model: Path, bundle: gq.OnnxBundle, cache: Path, uncached: str, tmp_path: Path
) -> None:
    """A file under the name of another's."""
    other = tmp_path / "other"
    write_moe(other, "glm4_moe_lite", **SHAPES | {"num_experts_per_tok": 3})
    open_checkpoint(model).tokenizer.save(other)
    checked(bundle_of(other, tmp_path), other, cache=tmp_path / "theirs")
    (foreign,), (kept,) = (tmp_path / "theirs").iterdir(), cache.iterdir()
    foreign.rename(tmp_path / "theirs" / kept.name)
    with pytest.raises(gq.CheckError, match="a cached baseline is damaged: experts of tokens"):
        checked(bundle, model, cache=tmp_path / "theirs")
    (tmp_path / "theirs" / kept.name).unlink()
    assert checked(bundle, model, cache=tmp_path / "theirs") == uncached


def bundle_of(model: Path, out: Path) -> gq.OnnxBundle:
    return gq.export(model, gq.load_recipe(None, {"export.kv_cache": "float"}), out=out / "float-onnx")


def test_routing_is_kept_under_a_name_of_its_own(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    kept = BaselineCache(Path("cache"), checkpoint.fingerprint, checkpoint.config)
    query = Query(np.array([5, 6]), 1)
    assert kept.path([query]) != kept.path([replace(query, routed=True)])
