from pathlib import Path

import pytest

from glmquant.core.near import did_you_mean, near_paths, nearest
from glmquant.data.text import read_documents
from glmquant.errors import GlmQuantError
from glmquant.recipe.load import load_recipe
from glmquant.reports.read import read_report
from glmquant.store.adapter import open_adapter
from glmquant.store.calibration import read_calibration


@pytest.mark.parametrize(
    ("missing", "meant"),
    [
        ("trian.jsonl", "train.jsonl"),
        ("TRAIN.JSONL", "train.jsonl"),
        ("train.json", "train.jsonl"),
        ("train", "train.jsonl"),
        ("dta/held.txt", "data/held.txt"),
        ("dta/other.txt", "data"),
        ("test.jsonl", None),
        ("b.txt", None),
        ("x" * 5000, None),
        ("", None),
    ],
)
def test_a_missing_path_suggests_what_lies_beside_it(missing: str, meant: str | None, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "a.txt", "data/held.txt"):
        (tmp_path / name).write_text("x")
    expected = None if meant is None else f"did you mean {tmp_path / meant}?"
    assert did_you_mean(tmp_path / missing if missing else Path()) == expected


def test_only_the_wanted_kind_is_suggested_most_alike_first(tmp_path: Path) -> None:
    (tmp_path / "model-a").mkdir()
    (tmp_path / "model-ab").mkdir()
    (tmp_path / "model-abc").write_text("x")
    assert near_paths(tmp_path / "model-abcd", "directory", most=2) == [tmp_path / "model-ab", tmp_path / "model-a"]
    assert near_paths(tmp_path / "model-abcd", "file", most=2) == [tmp_path / "model-abc"]


def test_a_name_suggests_the_nearest_in_any_case() -> None:
    assert nearest("LABLE", ["text", "label"]) == "label"
    assert nearest("id", ["text", "label"]) is None


@pytest.mark.parametrize(
    ("read", "beside"),
    [
        (lambda path: list(read_documents(path / "trian.jsonl")), "train.jsonl"),
        (lambda path: load_recipe(str(path / "mine.yml")), "mine.yaml"),
        (lambda path: read_report(path / "reprot.json"), "report.json"),
        (lambda path: read_calibration(path / "calibraton"), "calibration/"),
        (lambda path: open_adapter(path / "adaptr"), "adapter/"),
    ],
    ids=["data", "a recipe", "a report", "a calibration", "an adapter"],
)
def test_whatever_is_named_wrongly_is_suggested(read: object, beside: str, tmp_path: Path) -> None:
    (tmp_path / beside).mkdir() if beside.endswith("/") else (tmp_path / beside).write_text("x")
    with pytest.raises(GlmQuantError) as caught:
        read(tmp_path)  # type: ignore[operator]
    assert caught.value.hint == f"did you mean {tmp_path / beside}?"
