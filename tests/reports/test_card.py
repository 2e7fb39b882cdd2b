"""The card is what the hub reads, and its lines of code run in a bundle."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import glmquant as gq
from glmquant.evaluation.results import Subject
from glmquant.reports.card import CardFacts, to_card
from glmquant.store.base_card import BaseCard, read_base_card
from tests.support.paths import CHATGLM2
from tests.support.reports import report

ID = "THUDM/chatglm2-6b"
SUBJECT = Subject(ID, "3a1f", "f" * 64, "int4-g128-gptq", ("fit.equalize=true",), None, {})
ABOUT = replace(report(), setting=replace(report().setting, subject=SUBJECT))
OTHER = BaseCard("other", "ChatGLM2", "https://example.org/MODEL_LICENSE", ("zh", "en"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FEW = {"check.text": ["glmquant:held-out-en.txt"], "check.num_tokens": 128, "check.seq_len": 64}


def test_the_hub_reads_the_metadata() -> None:
    card = ModelCard(to_card(ABOUT, CardFacts(OTHER, ID, ("MODEL_LICENSE",), classifies=False)))
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == (ID, "quantized")
    assert (data["license"], data["license_name"], data["language"]) == ("other", "ChatGLM2", ["zh", "en"])
    assert data["pipeline_tag"] == "text-generation"
    for words in ("perplexity ratio | 1 | ", "27.2%", "int4-g128-gptq", "fit.equalize=true", "MODEL\\_LICENSE", "95 %"):
        assert words in card.text
    assert not re.search(r"\n{4,}", card.text)


def test_what_is_not_known_is_not_claimed() -> None:
    card = ModelCard(to_card(report(), CardFacts(BaseCard(), None, (), classifies=True)))
    assert not {"license", "base_model"} & set(card.data.to_dict())
    assert "No license is stated here" in card.text
    assert "genai" not in card.text


@pytest.mark.parametrize("integers", [True, False])
def test_a_session_is_asked_for_exact_sums_where_they_are_of_integers(integers: bool) -> None:
    facts = CardFacts(BaseCard(), None, (), classifies=True, multiplies_integers=integers)
    assert ("session.x64quantprecision" in to_card(report(), facts)) == integers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: mit\nlanguage: zh\n---\nx", BaseCard("mit", languages=("zh",))),
        ("---\nlicense: other\nlicense_name: a\nlicense_link: b\nlanguage: [en, no]\n---\n", None),
        ("no metadata", BaseCard()),
        ("---\nlicense: [\n---\n", BaseCard()),
        ("---\n- a\n---\n", BaseCard()),
        ("---\nlicense: &a mit\nlicense_name: *a\n---\n", BaseCard()),
        ("---\nlicense: mit\nx:\n" + "- a\n" * 10_000 + "---\n", BaseCard()),
        ("---\nlicense: !!python/object:os.system x\n---\n", BaseCard()),
    ],
)
def test_the_license_of_a_base_model_is_read_from_its_card(tmp_path: Path, text: str, found: BaseCard | None) -> None:
    (tmp_path / "README.md").write_text(text)
    assert read_base_card(tmp_path) == (found or BaseCard("other", "a", "b", ("en",)))


def test_the_lines_for_onnx_runtime_answer_as_the_bundle_does(tmp_path: Path) -> None:
    out = tmp_path / "out"
    gq.run(CHATGLM2, gq.load_recipe("int8-rtn", FEW), out=out)
    card = (out / "onnx" / "README.md").read_text(encoding="utf-8")
    (code,) = [each for each in BLOCK.findall(card) if "import onnxruntime as ort" in each]
    done = subprocess.run([sys.executable, "-c", code], cwd=out / "onnx", capture_output=True, check=True)
    options = gq.GenerationOptions(max_new_tokens=64)
    said = "".join(gq.generate(out / "onnx", "你好", chat=False, options=options))
    assert done.stdout.decode().strip() == said.strip()
