import json

import numpy as np
import pytest

from glmquant.errors import GenerationError
from glmquant.export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.generate import generate
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import GenerationOptions
from tests.export.models import GOLDEN_NAMES, golden_expected, golden_source, random_source

PROMPT = [5, 6, 7]


@pytest.fixture(scope="module")
def tiny_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    export_bundle(random_source(), ExportOptions(), directory)
    return directory


@pytest.fixture(scope="module")
def tiny(tiny_directory):
    return OnnxModel.open(tiny_directory, num_threads=1)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_greedy_tokens(tmp_path, name) -> None:
    export_bundle(golden_source(name), ExportOptions(), tmp_path)
    model = OnnxModel.open(tmp_path, num_threads=1)
    greedy = golden_expected(name)["greedy"][0].tolist()
    assert list(generate(model, greedy[:24], GenerationOptions(max_new_tokens=16))) == greedy[24:]


def test_greedy_tokens_are_those_of_full_forwards(tiny) -> None:
    ids = list(PROMPT)
    for _ in range(10):
        row = np.array([ids])
        ids.append(int(tiny.forward(row, np.ones_like(row))[0, -1].argmax()))
    assert list(generate(tiny, PROMPT, GenerationOptions(max_new_tokens=10))) == ids[3:]


def test_a_seed_gives_the_same_answer_again(tiny) -> None:
    def answer(seed):
        options = GenerationOptions(max_new_tokens=20, temperature=1.5, top_k=50, top_p=0.95, seed=seed)
        return list(generate(tiny, PROMPT, options))

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_generation_ends_before_an_eos_token(tiny_directory, tmp_path) -> None:
    plain = list(generate(OnnxModel.open(tiny_directory, num_threads=1), PROMPT, GenerationOptions(max_new_tokens=10)))
    for path in tiny_directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "genai_config.json").read_text())
    config["model"]["eos_token_id"] = [2, plain[4]]
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    model = OnnxModel.open(tmp_path, num_threads=1)
    assert list(generate(model, PROMPT, GenerationOptions(max_new_tokens=10))) == plain[: plain.index(plain[4])]


def test_tokens_stream(tiny) -> None:
    tokens = generate(tiny, PROMPT, GenerationOptions(max_new_tokens=5))
    first = next(tokens)
    assert [first, *tokens] == list(generate(tiny, PROMPT, GenerationOptions(max_new_tokens=5)))


def test_what_cannot_be_answered_is_refused_at_once(tiny) -> None:
    with pytest.raises(GenerationError, match="prompt is empty"):
        generate(tiny, [], GenerationOptions())
    with pytest.raises(GenerationError, match="no room for 62 more"):
        generate(tiny, PROMPT, GenerationOptions(max_new_tokens=62))
    assert len(list(generate(tiny, PROMPT, GenerationOptions(max_new_tokens=61)))) <= 61
