import json

import numpy as np
import pytest

from glmquant.errors import GenerationError
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.generate import Conversation, generate
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import GenerationOptions
from tests.support.models import GOLDEN_NAMES, golden_expected, golden_source, random_source

PROMPT = [5, 6, 7]


@pytest.fixture(scope="module", params=["ort", "standard"])
def tiny_directory(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    export_bundle(random_source(), ExportOptions(profile=request.param), directory)
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
    with pytest.raises(GenerationError, match="the prompt is empty"):
        generate(tiny, [], GenerationOptions())
    with pytest.raises(GenerationError, match="no room for 62 new"):
        generate(tiny, PROMPT, GenerationOptions(max_new_tokens=62))
    assert len(list(generate(tiny, PROMPT, GenerationOptions(max_new_tokens=61)))) <= 61


def test_stop_ids_end_an_answer(tiny) -> None:
    plain = list(generate(tiny, PROMPT, GenerationOptions(max_new_tokens=10)))
    stopping = GenerationOptions(max_new_tokens=10, stop_ids=(plain[4],))
    assert list(generate(tiny, PROMPT, stopping)) == plain[: plain.index(plain[4])]


def test_a_repetition_penalty_ends_repetition(tiny) -> None:
    options = GenerationOptions(max_new_tokens=30, repetition_penalty=100.0)
    tokens = list(generate(tiny, PROMPT, options))
    assert len({*PROMPT, *tokens}) == len(PROMPT) + len(tokens)


def test_turns_of_a_conversation_compute_only_what_is_new(tiny) -> None:
    options = GenerationOptions(max_new_tokens=6)
    conversation = Conversation(tiny)
    first = list(conversation.answer(PROMPT, options))
    assert conversation.cached == (*PROMPT, *first[:-1])
    for prompt in ([*PROMPT, *first, 11, 12], [*PROMPT, *first[:2], 9], PROMPT, [1, 2]):
        assert list(conversation.answer(prompt, options)) == list(generate(tiny, prompt, options))


def test_an_answer_left_unfinished_does_no_harm(tiny) -> None:
    options = GenerationOptions(max_new_tokens=6)
    conversation = Conversation(tiny, 30)
    next(conversation.answer(PROMPT, options))
    prompt = [*PROMPT, 40, 41]
    assert list(conversation.answer(prompt, options)) == list(generate(tiny, prompt, options))
    with pytest.raises(GenerationError, match="no room for 6 new"):
        conversation.answer([1] * 25, options)


def test_decoding_many_steps_equals_the_full_forward(tiny) -> None:
    ids = np.random.default_rng(0).integers(0, 200, (1, 64))
    cache = tiny.new_cache(1, 64)
    steps = [tiny.forward_with_cache(ids[:, i : i + 1], np.ones((1, i + 1), np.int64), cache) for i in range(64)]
    assert np.abs(np.concatenate(steps, 1) - tiny.forward(ids, np.ones_like(ids))).max() < 2e-5
