"""docs/mixture-of-experts.md and the recipes for routed experts, as a user runs them on a tiny GLM-4.7-Flash."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import assets
from glmquant.recipe.packaged import packaged_recipes
from glmquant.store.checkpoint import open_checkpoint
from tests.support.moe import write_moe

DOCUMENT = Path(__file__).parents[1] / "docs" / "mixture-of-experts.md"
SCRIPTS = re.findall(r"^```bash\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
TEMPLATE = (
    "[gMASK]sop{% for message in messages %}{{ message.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}\n</think>{% endif %}"
)
SHAPES = {
    "vocab_size": 5440,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "max_position_embeddings": 1024,
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = tmp_path / "GLM-4.7-Flash"
    write_moe(model, "glm4_moe_lite", **SHAPES)
    open_checkpoint(assets.DEMO_MODEL).tokenizer.save(model)
    (model / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    shutil.copy(assets.CALIBRATION_TEXT, tmp_path / "zh_en.txt")
    shutil.copy(assets.DIRECTORY / "held-out-en.txt", tmp_path / "held_out.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_document_runs(script: str, desk: Path) -> None:
    smaller = script.replace("num_samples=64", "num_samples=16").replace("seq_len=512", "seq_len=128")
    smaller = smaller.replace("num_tokens=4096", "num_tokens=512 --set check.seq_len=128 --set check.limits.mean_kl=1")
    smaller = smaller.replace("check.limits.mean_kl=1", "check.limits='{perplexity_ratio: 1.5}'")
    done = subprocess.run(["bash", "-euc", smaller], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (desk / "out" / "onnx" / "model.onnx").is_file()


@pytest.mark.parametrize("name", [name for name in packaged_recipes() if name.startswith("moe-")])
def test_packaged_recipes_run(name: str, desk: Path) -> None:
    settings = ["calibration.data=[zh_en.txt]", "calibration.num_samples=16", "calibration.seq_len=128"]
    settings += ["check.text=[held_out.txt]", "check.num_tokens=512", "check.seq_len=128", "check.tasks=[]"]
    settings += ["check.limits={perplexity_ratio: 2}"]
    command = ["glmquant", "run", "GLM-4.7-Flash", "--recipe", name, "--out", "out", "--quiet"]
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_head_is_trained_on_a_model_with_experts_and_ships(desk: Path) -> None:
    shutil.copy(assets.DIRECTORY / "reviews.jsonl", desk / "reviews.jsonl")
    recipe = gq.load_recipe(None, {"train.epochs": 1})
    trained = gq.train_classifier("GLM-4.7-Flash", "reviews.jsonl", recipe, out="classifier")
    labels = {count.label for count in trained.labels}
    rules = {"rules": [{"match": "layers.*", "spec": {"bits": 8, "group_size": 64}, "method": {"kind": "rtn"}}]}
    bundle = gq.export("classifier", gq.load_recipe(None, rules), out="onnx")
    assert next(iter(gq.classify(bundle, ["很好"]))).label in labels


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_training_inside_a_model_with_experts_is_refused(mode: str, desk: Path) -> None:
    shutil.copy(assets.DIRECTORY / "reviews.jsonl", desk / "reviews.jsonl")
    with pytest.raises(gq.TrainingError, match="routed experts"):
        gq.train_classifier("GLM-4.7-Flash", "reviews.jsonl", gq.load_recipe(None, {"train.mode": mode}), out="c")
    assert not (desk / "c").exists()
