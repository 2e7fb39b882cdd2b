"""The parts of ``benchmarks.sparse_model``: what is trained on, how routing is balanced, and what is written."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.demo_model.training import Run, Schedule
from benchmarks.sparse_model import handbook, outcomes, run
from benchmarks.sparse_model.handbook import paragraphs, read_handbook
from benchmarks.sparse_model.network import BALANCING_SPEED, RoutedModel, configuration
from benchmarks.sparse_model.rows import PAIRS, SHRINKAGE, rtn
from benchmarks.sparse_model.train import write_checkpoint
from glmquant import assets
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.quantization.expert_pass import SHARED_TOKENS
from glmquant.recipe.load import load_recipe
from glmquant.store.checkpoint import open_checkpoint

LONG = "A paragraph that is long enough to be one of the book's own."
TRANSLATED = "这一段文字已经翻译成中文，并且它的长度足够，可以作为训练文本的一部分，而不会被当作标题略去。"
PAGE = f"""<html><body><h1>{LONG} Not a paragraph.</h1><div class="para">
    {LONG} <a href="x">linked</a><br/> on
    <pre>{LONG}</pre><p>Inner: {LONG}</p></div><div class="para">Short.</div><p>{LONG}</p><p>{LONG}</p></body></html>"""


def test_paragraphs_are_long_enough_each_once_and_without_listings(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    assert list(paragraphs(sorted(tmp_path.glob("*.html")), "en")) == [f"Inner: {LONG}", f"{LONG} linked on", LONG]


def test_what_is_not_translated_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(f"<p>{LONG}</p><p>{TRANSLATED}</p>", encoding="utf-8")
    assert list(paragraphs(sorted(tmp_path.glob("*.html")), "zh")) == [TRANSLATED]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "en-US").mkdir()
    (tmp_path / "held-out-en.txt").write_text(f"{LONG} 3\n{LONG} 4\n")
    monkeypatch.setattr(assets, "DIRECTORY", tmp_path)
    monkeypatch.setattr(handbook, "assets", assets)
    return tmp_path


def test_training_text_ends_where_the_held_out_text_begins(book: Path) -> None:
    (book / "en-US" / "a.html").write_text("".join(f"<p>{LONG} {number}</p>" for number in (1, 4, 2, 3, 5)))
    found = read_handbook(book, "en")
    assert found.train == f"{LONG} 1\n{LONG} 2\n"
    assert found.held_out == f"{LONG} 3\n{LONG} 4\n"


def test_another_edition_is_refused(book: Path) -> None:
    (book / "en-US" / "a.html").write_text(f"<p>{LONG} 1</p><p>{LONG} 3</p>")
    with pytest.raises(ValueError, match="1 paragraphs of the held-out text are not in"):
        read_handbook(book, "en")


def small_model() -> RoutedModel:
    torch.manual_seed(0)
    config = configuration(vocabulary=5440)
    for name in ("hidden_size", "intermediate_size", "moe_intermediate_size"):
        setattr(config, name, 32)
    return RoutedModel(config)


def test_experts_with_few_tokens_gain_bias_and_those_with_many_lose_it() -> None:
    model = small_model().train()
    gates = [layer.mlp.gate for layer in model.model.model.layers[1:]]
    with torch.no_grad():
        gates[0].e_score_correction_bias[:2] = 9.0
    model(torch.randint(0, 100, (2, 8)))
    assert model.balance() == 3.0  # two of eight experts meet all tokens
    change = gates[0].e_score_correction_bias - torch.tensor([9.0, 9.0, 0, 0, 0, 0, 0, 0])
    assert change.sign().tolist() == [-1, -1, 1, 1, 1, 1, 1, 1]
    torch.testing.assert_close(change.abs(), torch.full((8,), BALANCING_SPEED), rtol=0, atol=1e-6)


def test_nothing_is_counted_while_it_is_evaluated() -> None:
    model = small_model()
    model.eval()(torch.randint(0, 100, (1, 4)))
    model.train()(torch.zeros(1, 1, dtype=torch.int64))
    assert sum(int(met_X.sum()) for met_X in model._met_X) == 4 * 2


def test_what_is_written_is_the_model_and_its_router_stays_float32(tmp_path: Path) -> None:
    model = small_model().eval()
    ids = torch.randint(0, 5400, (1, 12))
    write_checkpoint(model, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    (found,) = BaselineSource(checkpoint).logits([Query(ids[0].numpy(), 12)])
    with torch.no_grad():
        expected = model(ids)[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_where_its_state_was_saved(tmp_path: Path) -> None:
    first = Run(small_model(), Schedule(), tmp_path / "state.pt")
    with torch.no_grad():
        first.model.model.model.layers[1].mlp.gate.e_score_correction_bias[0] = 5.0
    first.step = 7
    first.save()
    second = Run(small_model(), Schedule(), tmp_path / "state.pt")
    assert second.step == 7
    assert second.model.model.model.layers[1].mlp.gate.e_score_correction_bias[0] == 5.0


def test_rows_have_names_of_their_own_and_the_usual_shrinkage_is_tried() -> None:
    rows = [row for pair in PAIRS for row in pair] + [row for each in SHRINKAGE.values() for row in each]
    assert len({row.name for row in rows}) == len(rows)
    assert all(any(row.shared_tokens == SHARED_TOKENS for row in each) for each in SHRINKAGE.values())
    for row in rows:
        load_recipe(None, row.recipe)


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of random weights where ``train`` writes its own, two rows and two windows."""
    torch.manual_seed(0)
    config = configuration(vocabulary=5440)
    for name in ("hidden_size", "intermediate_size", "moe_intermediate_size", "q_lora_rank", "kv_lora_rank"):
        setattr(config, name, 64)
    config.num_hidden_layers, config.mlp_layer_types = 2, ["dense", "sparse"]
    write_checkpoint(RoutedModel(config), tmp_path / "float")
    values = {name: {"en": 1.0, "zh": 2.0} for name in ("training tokens", "unigram", "perplexity")}
    (tmp_path / "training.json").write_text(
        json.dumps({"parameters": 1, "steps": 1, "tokens": 1, "seconds": 1} | values)
    )
    texts = {}
    for name, path in outcomes.TEXTS.items():
        texts[name] = tmp_path / path.name
        texts[name].write_text(path.read_text(encoding="utf-8")[:6000], encoding="utf-8")
    monkeypatch.setattr(outcomes, "TEXTS", texts)
    monkeypatch.setattr(outcomes, "WINDOWS", 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # two threads would be those of every test behind
    four, two = (replace(rtn("all", bits, 64), samples=1) for bits in (4, 2))
    usual = replace(four, name="usual", shared_tokens=SHARED_TOKENS, shipped=False)
    monkeypatch.setattr(run, "PAIRS", ((four, two),))
    monkeypatch.setattr(run, "SHRINKAGE", {1: (usual,)})
    return tmp_path


def test_the_page_is_written_and_rows_that_are_made_are_kept(trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["run", "--work", str(trial), "--out", str(trial / "result.md")]
    monkeypatch.setattr(sys, "argv", arguments)
    run.main()
    page = (trial / "result.md").read_text(encoding="utf-8")
    (head,) = [line for line in page.splitlines() if line.startswith("| quantized | bits a weight")]
    places = {name.strip(): number for number, name in enumerate(head.split("|"))}
    for name in ("all, 4 bits, groups of 64, RTN", "all, 2 bits, groups of 64, RTN"):
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |")).split("|")
        in_torch, shipped = (float(row[places[of]].split()[0]) for of in ("same experts, %", "same in the bundle, %"))
        assert 0 < shipped < 100
        assert abs(shipped - in_torch) < 10
    rows = {path: path.stat().st_mtime_ns for path in trial.glob("rows/*/row.json")}
    assert len(rows) == 3
    assert not [path for kind in ("quantized", "bundle") for path in trial.glob(f"rows/*/{kind}")]
    (next(iter(rows)).parent / "key.json").unlink()  # as where the run was killed in it
    run.main()
    again = {path: path.stat().st_mtime_ns for path in rows}
    assert [path for path in rows if rows[path] != again[path]] == [next(iter(rows))]
    assert (trial / "result.md").read_text(encoding="utf-8") == page
