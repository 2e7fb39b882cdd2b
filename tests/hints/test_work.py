"""Hints on runs, training, the pass through a model, and the command line's own."""

import errno
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from glmquant.cli.endings import _from_outside
from glmquant.cli.spelling import as_told
from glmquant.cli.streams import as_typed
from glmquant.errors import GlmQuantError
from glmquant.glm.config import ExpertsConfig
from glmquant.pipeline.run import _check_options, _read_check_data, _require_replaceable
from glmquant.recipe.load import load_recipe, parse_override
from glmquant.recipe.schema import TrainOptions
from glmquant.store.checkpoint import open_checkpoint
from glmquant.streaming.activations import embed_sequences
from glmquant.streaming.forward import require_finite
from glmquant.streaming.resources import Resources
from glmquant.streaming.state import SavedStates
from glmquant.train.directory import examples_to_train_on
from glmquant.train.split import require_of_each_label
from glmquant.train.train import _refuse_impossible
from glmquant.train.weights import stored
from tests.cli.test_endings import TimedOutError
from tests.cli.test_spelling import COMMANDS, FLAGS, LITERAL
from tests.hints.commands import hub_command
from tests.hints.follow import follows, met_errors, named, refused
from tests.hints.places import FILLED, Hint, hints
from tests.streaming.test_state import CONFIG, stream
from tests.support.classifiers import golden_classifier
from tests.support.paths import CHATGLM2
from tests.support.training import labeled
from tests.train.test_split import made_of
from tests.train.test_train import train

SLOWER = "train with a smaller train.learning_rate"


@follows("name some in train.data")
def test_a_classifier_is_trained_on_labeled_texts(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    refused(lambda: examples_to_train_on(checkpoint, load_recipe(None, {"train.epochs": 1})))
    labeled(tmp_path)
    recipe = load_recipe(None, {"train.epochs": 1, "train.data": str(tmp_path / "data.jsonl")})
    assert examples_to_train_on(checkpoint, recipe)


@follows(SLOWER, "Trainer._epoch")
def test_a_smaller_rate_keeps_the_loss_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = torch.nn.functional.cross_entropy

    def diverging(logits: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        return loss(logits, *rest, **more) * (float("inf") if rate > 1e-2 else 1)

    monkeypatch.setattr("glmquant.train.loop.cross_entropy", diverging)
    rate = 1.0
    refused(lambda: train(tmp_path, "fast", 12, mode="head", learning_rate=rate, epochs=1))
    rate = 1e-3
    assert train(tmp_path, "slow", 12, mode="head", learning_rate=rate, epochs=1)


@follows(SLOWER, "weights:stored")
def test_a_trained_weight_of_usual_size_is_stored() -> None:
    refused(lambda: stored(torch.tensor([1e6]), "float16"))
    assert stored(torch.tensor([0.1]), "float16")


@follows("add examples of it, or drop it")
def test_each_label_has_examples() -> None:
    refused(lambda: require_of_each_label(made_of({"a": 2, "b": 1}), 2, "two"))
    require_of_each_label(made_of({"a": 2, "b": 2}), 2, "two")
    require_of_each_label(made_of({"a": 2}), 2, "two")


@follows("train the original, then quantize what comes out")
@follows("use train.mode=head, which holds one block at a time")
def test_what_can_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    original = open_checkpoint(CHATGLM2)
    quantized = SimpleNamespace(is_quantized=True, path=CHATGLM2)
    refused(lambda: _refuse_impossible(quantized, TrainOptions(mode="head")))  # type: ignore[arg-type]
    monkeypatch.setattr("glmquant.train.train.physical_memory", lambda: 1_000_000)
    refused(lambda: _refuse_impossible(original, TrainOptions(mode="full")), "train.mode=head")
    mode = load_recipe(None, dict([parse_override("train.mode=head")])).train.mode
    _refuse_impossible(original, TrainOptions(mode=mode))


@follows("set train.mode=head; or train a LoRA adapter elsewhere and save the merged model")
def test_a_head_is_trained_on_routed_experts() -> None:
    config = replace(CONFIG, experts=ExpertsConfig(8, 2, 32, 1, 1.0, 0))
    sparse = SimpleNamespace(is_quantized=False, path=CHATGLM2, config=config)
    refused(lambda: _refuse_impossible(sparse, TrainOptions(mode="lora")))  # type: ignore[arg-type]
    mode = load_recipe(None, dict([parse_override("train.mode=head")])).train.mode
    _refuse_impossible(sparse, TrainOptions(mode=mode))  # type: ignore[arg-type]


@follows("encode the text with this checkpoint's own tokenizer")
def test_ids_are_of_the_checkpoints_vocabulary() -> None:
    embedding = torch.ones(CONFIG.vocab_size, CONFIG.hidden_size)
    refused(lambda: embed_sequences([np.array([CONFIG.vocab_size])], embedding, CONFIG))
    assert embed_sequences([np.array([CONFIG.vocab_size - 1])], embedding, CONFIG)


@follows("`inspect` the checkpoint: its weights are damaged, or belong to another architecture; download it again")
def test_whole_weights_give_finite_activations() -> None:
    refused(lambda: require_finite(torch.tensor([[[float("nan")]]]), "layers.0"))
    require_finite(torch.ones(1, 1, 1), "layers.0")


@follows("give at least {}GB")
@pytest.mark.parametrize("needed", [500_000_001, 549_999_999, 50_000_000_000])
def test_the_memory_that_is_asked_for_is_enough(needed: int) -> None:
    error = refused(lambda: Resources(memory_limit=10**9).store(needed, held=10**9))
    told = float(str(error.hint).removeprefix("give at least ").removesuffix("GB"))
    assert Resources(memory_limit=int(told * 1e9)).store(needed, held=10**9)


@follows("remove the directory it lies in, and start again")
def test_a_run_starts_again_without_its_damaged_state(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    states, kept = SavedStates(tmp_path / "partial"), stream(0)
    states.save([kept], 1)
    (path,) = (tmp_path / "partial").iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    refused(lambda: states.load([kept], 1))
    path.unlink()
    path.parent.rmdir()
    (tmp_path / "partial").mkdir()
    assert SavedStates(tmp_path / "partial").furthest([0]) is None
    states.save([kept], 1)
    states.load([kept], 1)


@follows("choose another directory", "_require_replaceable")
def test_another_directory_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("x")
    refused(lambda: _require_replaceable(tmp_path / "mine", CHATGLM2))
    _require_replaceable(tmp_path / "another", CHATGLM2)


@follows("leave check.text out")
@follows("give some, for example check.tasks=[{data: test.jsonl}]")
def test_a_classifier_is_checked_on_labeled_texts(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(golden_classifier(tmp_path, "chatglm2-tiny", ("animal", "plant", "stone")))
    text = load_recipe(None, {"check.text": ["a.txt"]})

    def read(recipe: Any) -> object:
        return _read_check_data(checkpoint, checkpoint.config, recipe, recipe.check, None, trains=True)

    refused(lambda: read(text), "leave check.text out")
    assert read(load_recipe(None)) == []
    refused(lambda: _check_options(checkpoint, load_recipe(None), None), "check.tasks=")
    labeled(tmp_path)
    told = f"check.tasks=[{{data: {tmp_path / 'data.jsonl'}}}]"
    recipe = load_recipe(None, dict([parse_override(told)]))
    assert _check_options(checkpoint, recipe, None) == recipe.check
    assert read(recipe)


def outcome(error: BaseException | None) -> str:
    """What the command line says of an error from outside, as it makes its message; ``done`` without one."""
    if error is None:
        return "done"
    told = _from_outside(error)
    assert told is not None
    return as_told(told)


OUTSIDE: dict[str, tuple[Hint, BaseException]] = {
    "memory": (named("free memory, or lower `memory_limit` where the command takes it"), MemoryError()),
    "a device": (
        named("see that it works and has memory, or use the device cpu"), RuntimeError("CUDA error: unspecified"),
    ),
    "the network": (named("look at the connection, and try again"), TimedOutError("timed out")),
    "the disk": (
        named("free some space, and run the same command again"), OSError(errno.ENOSPC, "No space left on device"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTSIDE.values(), ids=OUTSIDE)
def test_what_the_machine_lacked_is_named_in_the_commands_words(case: tuple[Hint, BaseException]) -> None:
    hint, error = case
    with met_errors() as met:
        told = outcome(error)
    assert any(each.is_of(hint) for each in met)
    assert set(re.findall(r"`(--[\w-]+)`", told)) <= {"--memory-limit"}
    assert Resources.named("cpu", 10**9).memory_limit == 10**9
    assert outcome(None) == "done"


def test_settings_are_told_as_one_argument_of_a_shell() -> None:
    for value in ("26", '"my text"', "[{data: /a b/c.jsonl, text_field: my text}]", '"1"', "glm-4"):
        for text in (f"give more, or set check.text_field={value}", f"set check.text_field={value}"):
            told = as_told(GlmQuantError("x", hint=text))
            arguments = shlex.split(told.partition("give --set ")[2])
            assert arguments[:1] == [f"check.text_field={value}"], told
    both = as_told(GlmQuantError("x", hint='set calibration.text_field=a or set calibration.text_field="b c"'))
    assert both.endswith("""give --set calibration.text_field=a or give --set 'calibration.text_field="b c"'""")


SAMPLE = {"check.num_tokens": "1024", "calibration.num_samples": "4"}


@pytest.mark.parametrize(
    "words",
    sorted({words for hint in hints() for words in re.findall(r"\bset (\w+(?:\.\w+)+=[^\s;,]*)", hint.words)}),
)
def test_each_setting_that_a_hint_prints_is_a_recipes(words: str) -> None:
    key = words.partition("=")[0]
    if key == "check.tasks":
        words = "check.tasks=[{data: a.jsonl, text_field: body}]"
    assert load_recipe(None, dict([parse_override(FILLED.sub(SAMPLE.get(key, "x"), words))]))


QUOTED = sorted({(words, hint.place) for hint in hints() for words in re.findall(r"`([^`]+)`", hint.words)})
PROGRAMS = {"accelerate", "cp", "git", "hf", "python"}
"""Of which other tests type the commands, where the program is here."""


@pytest.mark.parametrize("quoted", sorted({words for words, _ in QUOTED if FILLED.fullmatch(words) is None}))
def test_what_a_hint_quotes_can_be_typed(quoted: str) -> None:
    spelled = as_told(GlmQuantError("x", hint=f"`{quoted}`")).partition("`")[2].removesuffix("`")
    if spelled.startswith("glmquant "):
        assert spelled.split()[1] in COMMANDS
    elif spelled.startswith("--"):
        assert spelled in FLAGS
    elif " " in spelled:
        assert spelled.split()[0] in PROGRAMS
    else:
        assert spelled in LITERAL | {"model.state_dict()"}


def test_logging_in_is_a_command_of_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    hub_command("hf auth login --help")
    assert "token" in capsys.readouterr().out.lower()


@follows("set PYTHONUTF8=1 and give the text in UTF-8, or put it into a file")
def test_text_in_utf_8_is_read(tmp_path: Path) -> None:
    typed = "很好".encode("gbk").decode("ascii", "surrogateescape")
    refused(lambda: as_typed(typed, "ascii"))
    assert as_typed("很好".encode().decode("ascii", "surrogateescape"), "ascii") == "很好"
    assert as_typed("很好", "utf-8") == "很好"
