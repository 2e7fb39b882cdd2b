"""Texts in, labels out, from a bundle on disk."""

from pathlib import Path

import numpy as np
import pytest

from glmquant.errors import DataError, ExportError, GenerationError
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.onnx_export.classifier import export_classifier
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.classify import OnnxClassifier, classify
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.session import is_classifier
from glmquant.store.checkpoint import open_checkpoint
from tests.support.classifiers import golden_classifier, golden_expected
from tests.support.models import golden_source

LABELS = ("差", "good", "so-so")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("classifier")
    checkpoint = open_checkpoint(golden_classifier(directory, "chatglm2-tiny", LABELS))
    out = directory / "onnx"
    out.mkdir()
    tokenizer = load_tokenizer(checkpoint.path, checkpoint.config)
    export_classifier(checkpoint, ExportOptions(max_length=20), out, tokenizer=tokenizer)
    return out


@pytest.fixture(scope="module")
def model(bundle: Path) -> OnnxClassifier:
    return OnnxClassifier.open(bundle, num_threads=1)


@pytest.fixture(scope="module")
def tokenizer(bundle: Path) -> GlmTokenizer:
    return load_tokenizer(bundle, open_checkpoint(bundle.parent / "chatglm2-tiny").config)


def test_publishers_logits(model: OnnxClassifier) -> None:
    expected = golden_expected("chatglm2-tiny")
    ids = expected["input_ids"].numpy()
    row = ids[1, 7:]  # the tokens of the padded row
    logits = model.logits([row, row[:3], row])
    assert np.abs(logits[[0, 2]] - expected["seqcls_logits_padded"][1].numpy()).max() < 1e-3
    assert np.abs(logits[1] - logits[0]).max() > 0.01


def test_a_text_is_classified_alike_alone_and_in_company(model: OnnxClassifier, tokenizer: GlmTokenizer) -> None:
    texts = ["你好", "a somewhat longer text", "no", "你好"]
    together = classify(model, texts, tokenizer)
    alone = [classify(model, [text], tokenizer)[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one.label == other.label
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
    assert [each.label for each in together[0].probabilities] == list(LABELS)
    assert sum(each.probability for each in together[0].probabilities) == pytest.approx(1)
    assert together[0].probability == max(each.probability for each in together[0].probabilities)


def test_long_text_is_cut_and_says_so(model: OnnxClassifier, tokenizer: GlmTokenizer) -> None:
    long = "one two three " * 40
    kept = tokenizer.decode(tokenizer.encode(long)[:18])
    cut, short = classify(model, [long, kept], tokenizer)
    assert (cut.truncated, short.truncated) == (True, False)
    assert cut.probability == pytest.approx(short.probability, abs=1e-6)


def test_no_texts_give_no_results(model: OnnxClassifier, tokenizer: GlmTokenizer) -> None:
    assert classify(model, [], tokenizer) == []


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_text_is_refused(model: OnnxClassifier, tokenizer: GlmTokenizer, text: str) -> None:
    with pytest.raises(DataError, match="text 2 of 2 is empty"):
        classify(model, ["good", text], tokenizer)


@pytest.mark.parametrize("ids", [[], [0] * 21, [2112], [-1]])
def test_sequences_the_model_cannot_take(model: OnnxClassifier, ids: list[int]) -> None:
    with pytest.raises(GenerationError):
        model.logits([np.array(ids, dtype=np.int64)])


def test_a_language_models_bundle_is_no_classifier(tmp_path: Path, bundle: Path) -> None:
    export_bundle(golden_source("chatglm2-tiny"), ExportOptions(), tmp_path)
    assert is_classifier(bundle)
    assert not is_classifier(tmp_path)
    with pytest.raises(ExportError, match="not a classifier"):
        OnnxClassifier.open(tmp_path)
    with pytest.raises(ExportError, match="generates no text") as error:
        OnnxModel.open(bundle)
    assert "`classify`" in str(error.value.hint)


def test_a_damaged_graph_is_refused(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "config.json").write_bytes((bundle / "config.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"\x72\x01\xff")
    with pytest.raises(ExportError, match="cannot read"):
        OnnxClassifier.open(tmp_path)
