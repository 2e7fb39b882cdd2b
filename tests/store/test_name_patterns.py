"""Patterns match the names that PEFT's would, and none takes long."""

import time

import pytest
from peft.utils.other import get_pattern_key

from glmquant.errors import CheckpointError
from glmquant.store.name_patterns import first_matches

NAMES = [
    f"{prefix}layers.{layer}.{module}"
    for prefix in ("model.", "transformer.encoder.")
    for layer in (0, 1, 11)
    for module in ("self_attn.q_proj", "self_attn.k_proj", "mlp.dense_4h_to_h", "mlp.up_proj")
] + ["lm_head", "q_proj"]
PATTERNS = [
    "q_proj",
    "self_attn.q_proj",
    "layers.1.self_attn.q_proj",
    "^layers.1.self_attn.q_proj",
    "^model.layers.1.self_attn.q_proj",
    "model.layers.1.self_attn.q_proj",
    "1.self_attn.q_proj",
    ".*_proj",
    "(q|k)_proj",
    "q_proj|lm_head",
    r"layers\.\d+\.mlp\..*",
    r".*\.layers\.1\..*(q_proj|k_proj)$",
    "up",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_it_matches_in_peft(pattern: str) -> None:
    theirs = {name for name in NAMES if get_pattern_key([pattern], name) == pattern}
    assert first_matches({pattern: 3}, NAMES, "here").keys() == theirs


def test_the_first_that_matches_counts() -> None:
    names = ["model.self_attn.q_proj", "model.q_proj", "model.v_proj"]
    found = first_matches({"k_proj": 1, "self_attn.q_proj": 2, "q_proj": 3}, names, "here")
    assert found == {"model.self_attn.q_proj": 2, "model.q_proj": 3}


HOSTILE = {
    "(a+)+$": "a" * 60 + "!",
    "(.*)*x": "a" * 900,
    "(a|aa)+b": "a" * 90,
    r"(\w+\.?)+:": "model.layers.0.self_attn.q_proj" * 20,
}


@pytest.mark.parametrize(("pattern", "name"), HOSTILE.items())
def test_patterns_that_make_pythons_engine_run_for_years_take_no_time(pattern: str, name: str) -> None:
    started = time.monotonic()
    assert first_matches({pattern: 1}, [name], "here") == {}
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "a{99999}{99999}", r"(?=a)b", r"(a)\1", "x" * 5000])
def test_what_is_no_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="pattern"):
        first_matches({pattern: 1}, ["model"], "here")


def test_many_slow_patterns_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glmquant.store.name_patterns.MOST_SECONDS", 0.5)
    large = {rf"(\w{{90}}){{2}}{number}": 1 for number in range(10_000)}
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="too long"):
        first_matches(large, ["model." * 150], "here")
    assert time.monotonic() - started < 3


def test_a_pattern_for_every_module_takes_a_moment() -> None:
    """As mergekit writes them for an adapter that it extracts."""
    names = [f"model.layers.{layer}.mlp.{part}_proj" for layer in range(100) for part in ("gate", "up", "down")]
    started = time.monotonic()
    assert first_matches({name: number for number, name in enumerate(names)}, names, "here") == {
        name: number for number, name in enumerate(names)
    }
    assert time.monotonic() - started < 2
