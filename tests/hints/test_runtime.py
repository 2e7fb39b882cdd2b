"""Hints on running a bundle."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import glmquant as gq
from glmquant.data.sequences import encode_texts
from glmquant.onnx_export.classifier import export_classifier
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.classify import OnnxClassifier, classify
from glmquant.runtime.generate import generate
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.routing import bundle_choices
from glmquant.runtime.sampling import GenerationOptions, Sampler
from glmquant.runtime.session import require_bundle
from glmquant.store.checkpoint import open_checkpoint
from tests.hints.follow import follows, met_errors, named, refused
from tests.hints.places import Hint
from tests.store.test_recognize import adapter, touch
from tests.support.classifiers import golden_classifier
from tests.support.golden import config, directory, tokenizer
from tests.support.handed import plain
from tests.support.models import TINY, golden_source, random_source
from tests.support.moe import write_moe
from tests.support.tokenizers import Publisher

LENGTH = 24
FLOAT32 = "if the model runs in float16, a value may have overflowed: export with export.dtype=float32"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    export_bundle(random_source(), ExportOptions(max_length=LENGTH), directory)
    return directory


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    directory = tmp_path_factory.mktemp("longer")
    export_bundle(random_source(), ExportOptions(max_length=2 * LENGTH), directory)
    return OnnxModel.open(directory, num_threads=1)


@pytest.fixture(scope="module")
def model(bundle: Path) -> OnnxModel:
    return OnnxModel.open(bundle, num_threads=1)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("classifier")
    checkpoint = open_checkpoint(golden_classifier(directory, "chatglm2-tiny", ("a", "b", "c")))
    (directory / "onnx").mkdir()
    export_classifier(checkpoint, ExportOptions(max_length=LENGTH), directory / "onnx")
    return directory / "onnx"


def another_graph(path: Path) -> None:
    """A model that others made."""
    graph = onnx.load_model(path / "model.onnx", load_external_data=False)
    del graph.metadata_props[:]
    onnx.save_model(graph, path / "model.onnx")


def with_path(path: Path) -> None:
    settings = json.loads((path / "genai_config.json").read_text())
    settings["model"]["decoder"]["session_options"]["session.optimized_model_filepath"] = "/etc/x"
    (path / "genai_config.json").write_text(json.dumps(settings))


def damaged(path: Path) -> None:
    (path / "model.onnx").write_bytes(b"\x0a\xff\xff")


def damaged_properties(path: Path) -> None:
    (path / "model.onnx").write_bytes(b"\x72\x01\xff")


def cut_short(path: Path) -> None:
    os.truncate(path / "model.onnx.data", 100)


def without_settings(path: Path) -> None:
    (path / "genai_config.json").write_text("{}")


Spoil = Callable[[Path], object]
BUNDLES: dict[str, tuple[Hint, Spoil]] = {
    "cut short": (named("export the model again; the files may be damaged or incomplete", "open_session"), cut_short),
    "damaged": (named("export the model again; this file is damaged or incomplete"), damaged),
    "without settings": (named("export the model again", "read_settings"), without_settings),
    "another's": (named("export the checkpoint with glmquant", "_not_ours"), another_graph),
    "a path in it": (named("remove it; a bundle decides how it is computed, and nothing else"), with_path),
}
CLASSIFIERS: dict[str, tuple[Hint, Spoil]] = {
    "damaged": (named("export the model again", "_metadata"), damaged_properties),
    "another's": (named("export the checkpoint with glmquant", "_metadata"), another_graph),
}


def spoiled(bundle: Path, to: Path, hint: Hint, spoil: Spoil, act: Callable[[Path], object]) -> Path:
    """A copy of a bundle that is refused with the hint, and another that is as it was exported."""
    shutil.copytree(bundle, to / "spoiled")
    spoil(to / "spoiled")
    with met_errors() as met:
        refused(lambda: act(to / "spoiled"))
    assert any(each.is_of(hint) for each in met), met
    return Path(shutil.copytree(bundle, to / "again"))


@pytest.mark.parametrize("case", BUNDLES.values(), ids=BUNDLES)
def test_a_bundle_exported_again_is_opened(tmp_path: Path, bundle: Path, case: tuple[Hint, Spoil]) -> None:
    assert OnnxModel.open(spoiled(bundle, tmp_path, *case, OnnxModel.open), num_threads=1)


@pytest.mark.parametrize("case", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_a_classifier_exported_again_is_opened(tmp_path: Path, classifier: Path, case: tuple[Hint, Spoil]) -> None:
    assert OnnxClassifier.open(spoiled(classifier, tmp_path, *case, OnnxClassifier.open), num_threads=1)


@follows("export a classifier's checkpoint, such as `train_classifier` writes")
def test_a_classifiers_bundle_classifies(bundle: Path, classifier: Path, tmp_path: Path) -> None:
    export_bundle(golden_source("chatglm2-tiny"), ExportOptions(), tmp_path)
    refused(lambda: OnnxClassifier.open(tmp_path))
    assert OnnxClassifier.open(classifier).labels == ("a", "b", "c")


@follows("shorten the prompt, lower max_new_tokens, or export with a larger export.max_length")
@follows("shorten the text, or export with a larger export.max_length")
@follows("encode the text with the bundle's tokenizer", "runtime.model")
def test_a_prompt_fits_the_bundle(model: OnnxModel, longer: OnnxModel) -> None:
    def answer(model: OnnxModel, prompt: int, new: int) -> list[int]:
        return list(generate(model, [5] * prompt, GenerationOptions(max_new_tokens=new)))

    refused(lambda: answer(model, 20, 8), "lower max_new_tokens")
    answer(model, 16, 8)
    answer(model, 20, 4)
    answer(longer, 20, 8)
    long, short = np.full((1, LENGTH + 1), 5), np.full((1, LENGTH), 5)
    refused(lambda: model.forward(long, np.ones_like(long)), "shorten the text")
    assert model.forward(short, np.ones_like(short)).shape[1] == LENGTH
    assert longer.forward(long, np.ones_like(long)).shape[1] == LENGTH + 1
    refused(lambda: model.forward(short + TINY.vocab_size, np.ones_like(short)), "the bundle's tokenizer")


@follows("encode the text with the bundle's tokenizer", "runtime.classify")
@follows(FLOAT32, "runtime.classify")
def test_a_classifier_takes_its_own_ids(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OnnxClassifier.open(classifier, num_threads=1)
    own = encode_texts(["你好"], Publisher(), LENGTH).ids
    refused(lambda: model.logits([own[0] + config("chatglm2-tiny").vocab_size]), "the bundle's tokenizer")
    with monkeypatch.context() as patch:  # as in float16, where a value overflowed
        patch.setattr(OnnxClassifier, "_run", lambda self, ids, mask: np.full((1, 3), np.inf))
        refused(lambda: model.logits(own), "export.dtype=float32")
    assert ExportOptions(dtype="float32")
    assert np.isfinite(model.logits(own)).all()


@follows("export with export.dtype=float32")
def test_finite_logits_are_sampled() -> None:
    sampler = Sampler(GenerationOptions(), [])
    with np.errstate(over="ignore"):
        overflowed = np.array([1e5, 0], np.float32).astype(np.float16).astype(np.float32)
    refused(lambda: sampler.choose(overflowed))
    assert sampler.choose(np.array([1e5, 0], np.float32)) == 0


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here")
@follows(
    "on a machine with an NVIDIA GPU, pip uninstall -y onnxruntime && pip install --force-reinstall --no-deps onnxruntime-gpu; or use provider cpu"
)
def test_the_cpu_is_a_provider(bundle: Path) -> None:
    refused(lambda: OnnxModel.open(bundle, provider="cuda"))
    assert OnnxModel.open(bundle, provider="cpu")


@follows("give the path of such a directory; bundles are not downloaded")
@follows("it looks like a checkpoint: `export` makes a bundle of it")
@follows("{}: {}", "without_graph")
@follows(
    "`generate`, `classify` and `check` take it; `check` takes the bundle first, and the float checkpoint as `baseline`"
)
@follows("give the checkpoint it was exported from, and `export` that")
def test_a_bundle_is_taken_where_bundles_are(tmp_path: Path, bundle: Path) -> None:
    refused(lambda: require_bundle(tmp_path / "me" / "bundle"), "give the path")
    refused(lambda: require_bundle(plain(tmp_path / "model")), "`export` makes")
    (tmp_path / "adapter").mkdir()
    adapter()(tmp_path / "adapter")
    refused(lambda: require_bundle(tmp_path / "adapter"), "a LoRA adapter")
    refused(lambda: open_checkpoint(bundle), "`generate`")
    (tmp_path / "another").mkdir()
    touch("decoder_model_merged.onnx")(tmp_path / "another")
    refused(lambda: open_checkpoint(tmp_path / "another"), "`export` that")
    assert open_checkpoint(directory("chatglm2-tiny"))
    require_bundle(bundle)
    assert list(generate(OnnxModel.open(bundle, num_threads=1), [5], GenerationOptions(max_new_tokens=2)))


@follows("give its directory, {}", "without_graph")
def test_the_directory_of_a_graph_is_a_bundle(bundle: Path) -> None:
    error = refused(lambda: require_bundle(bundle / "model.onnx"))
    require_bundle(Path(str(error.hint).removeprefix("give its directory, ")))


@follows("`classify` labels texts with it")
def test_a_classifiers_bundle_is_for_classify(classifier: Path) -> None:
    refused(lambda: OnnxModel.open(classifier))
    assert classify(OnnxClassifier.open(classifier), ["你好"], Publisher())


@follows("leave it out, or use the chat template")
def test_thinking_goes_with_the_chat_template(tmp_path: Path) -> None:
    def answer(**options: Any) -> str:
        return "".join(gq.generate(tmp_path, "a", options=GenerationOptions(max_new_tokens=1), **options))

    source = golden_source("chatglm2-tiny")
    export_bundle(source, ExportOptions(), tmp_path, tokenizer=tokenizer("chatglm2-tiny"))
    refused(lambda: answer(chat=False, thinking=True))
    answer(chat=False)
    answer()


@follows("export the model again; the files may be damaged or incomplete", "runtime.routing:_session")
def test_routes_of_a_bundle_exported_again_are_read(tmp_path: Path) -> None:
    write_moe(tmp_path, "glm4_moe_lite")
    source = open_checkpoint(tmp_path)
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        export_bundle(source, ExportOptions(max_length=LENGTH), tmp_path / name)
    weights = tmp_path / "first" / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:100])
    tokens = [np.array([3, 4, 5])]
    refused(lambda: bundle_choices(tmp_path / "first", tokens))
    assert bundle_choices(tmp_path / "again", tokens)
