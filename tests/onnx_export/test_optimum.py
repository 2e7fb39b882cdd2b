"""Optimum opens what is exported, in an environment of its own: it wants transformers < 4.58.

``OPTIMUM_PYTHON`` names the interpreter of one that is there already; otherwise one is made, which takes minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import glmquant as gq
from glmquant.data.sequences import encode_texts
from glmquant.runtime.classify import OnnxClassifier
from glmquant.runtime.tokenizer import load_bundle_tokenizer
from tests.support.classifiers import golden_classifier

PEERS = Path(__file__).parents[2] / "benchmarks" / "interop"
TEXTS = ["房间很干净，下次还来", "no", "The 3 breakfasts were cold, and   the staff did not care."]
INT8 = {
    "rules": [{"match": "layers.*", "spec": {"bits": 8, "group_size": -1}}],
    "export.dynamic_int8": True,
    "export.max_length": 256,
}


@pytest.fixture(scope="module")
def optimum_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    known = os.environ.get("OPTIMUM_PYTHON")
    if known:
        return known
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = str(environment / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", PEERS / "requirements-optimum.txt"], check=True)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"export.profile": "ort"}, {"export.profile": "standard"}, INT8])
def test_a_classifier(tmp_path: Path, optimum_python: str, settings: dict[str, object]) -> None:
    model = golden_classifier(tmp_path, "chatglm2-tiny", ("差", "good", "so-so"))
    recipe, bundle = gq.load_recipe(None, settings), tmp_path / "onnx"
    quantized = gq.quantize(model, recipe, out=tmp_path / "quantized") if recipe.rules else model
    gq.export(quantized, recipe, out=bundle)
    case, out = tmp_path / "case.json", tmp_path / "out.json"
    case.write_text(json.dumps({"texts": TEXTS}), encoding="utf-8")
    subprocess.run([optimum_python, PEERS / "run_optimum_classifier.py", bundle, case, out], check=True)
    theirs = json.loads(out.read_text(encoding="utf-8"))
    ours = OnnxClassifier.open(bundle)
    expected = ours.logits(encode_texts(TEXTS, load_bundle_tokenizer(bundle), ours.max_length).ids)
    assert theirs["labels"] == list(ours.labels)
    for side in ("left", "right"):
        assert np.abs(np.array(theirs[side]) - expected).max() < 1e-4
