"""The column of datasets in docs/data.md, run with it where it is installed."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
TEXT = "今天的会议改到下午一点"
LINE = json.dumps({"text": TEXT})
ROW = [{"text": TEXT}]


def told(row: str) -> str:
    """What the page says that datasets does."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {row}")]
    return line.split(" | ")[2].removesuffix(" |")


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)

    def load(builder: str, name: str, content: str | bytes | None, **options: Any) -> Any:
        """Its rows, or ``an error``; of a directory where there is no content."""
        path = tmp_path / name
        where = {"data_dir": str(path)} if content is None else {"data_files": str(path)}
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            rows = datasets.load_dataset(builder, split="train", cache_dir=str(tmp_path / "cache"), **where, **options)
        except (datasets.exceptions.DatasetsError, ValueError):
            return "an error"
        return rows.to_list()

    return load


def test_plain_text_is_a_record_a_line(read: Callable[..., Any]) -> None:
    assert read("text", "a.txt", f"{TEXT}\n\nb") == [*ROW, {"text": ""}, {"text": "b"}]
    assert told("plain text") == "`text` builder, a line a record"


def test_json(read: Callable[..., Any]) -> None:
    assert read("json", "a.dat", f"{LINE}\n{LINE}") == read("json", "a.json", f"[{LINE}, {LINE}]") == ROW * 2
    assert read("json", "b.json", json.dumps({"data": ROW}), field="data") == ROW
    assert told("JSON Lines") == told("JSON array") == "`json` builder"
    assert told("one JSON object with a list") == '`field="data"`'
    assert read("json", "c.json", '{"text": ["a", "b"]}') == [{"text": ["a", "b"]}]
    assert told("one JSON object of columns") == "one record of lists"


def test_tables(read: Callable[..., Any]) -> None:
    assert read("csv", "a.csv", f"id;text\n1;{TEXT}\n", sep=";") == [{"id": 1, "text": TEXT}]
    assert told("CSV, TSV") == "`csv` builder, `sep=`"


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_containers(read: Callable[..., Any], ending: str, pack: Callable[[bytes], bytes]) -> None:
    assert read("json", f"a.jsonl.{ending}", pack(LINE.encode())) == ROW
    assert told("gzip, zstandard") == "unpacked"


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030"])
def test_encodings(read: Callable[..., Any], encoding: str) -> None:
    content = f"text\n{TEXT}\n".encode(encoding)
    assert read("csv", "a.csv", content, encoding=encoding) == ROW
    assert read("csv", "b.csv", content) == "an error"
    assert told("UTF-16") == told("GB18030") == "`encoding=`"


def test_labels(read: Callable[..., Any]) -> None:
    numbers = [{"text": "a", "label": 1.0}, {"text": "b", "label": 2.0}]
    assert read("json", "a.json", "\n".join(map(json.dumps, numbers))) == numbers
    assert read("csv", "a.csv", "text,label\na,1.0\nb,2.0\n") == numbers
    assert (told("`1.0`, `2.0` in JSON"), told("`1.0`, `2.0` in a table")) == ("as they are", "numbers")
    assert read("csv", "b.csv", "text,label\na, x\n") == [{"text": "a", "label": " x"}]
    assert told("blanks around") == "kept"


def test_ragged_rows(read: Callable[..., Any]) -> None:
    assert read("csv", "a.csv", "text,label\na,b\na,b,c\n") == "an error"
    assert read("csv", "b.csv", "text,label\na,b\na\n")[1] == {"text": "a", "label": None}
    assert told("a row of more or fewer") == "more: an error; fewer: nulls"


def test_directories(read: Callable[..., Any], tmp_path: Path) -> None:
    for label in ("neg", "pos"):
        (tmp_path / "of_directories" / label).mkdir(parents=True)
        (tmp_path / "of_directories" / label / "1.txt").write_text("one\ntwo\n")
        (tmp_path / "of_files").mkdir(exist_ok=True)
        (tmp_path / "of_files" / f"{label}.txt").write_text("one\ntwo\n")
    assert read("text", "of_files", None) == [{"text": "one"}, {"text": "two"}] * 2
    assert told("a directory of `LABEL.txt`") == "`text` builder, without labels"
    assert read("text", "of_directories", None, sample_by="document") == [{"text": "one\ntwo\n"}] * 2
    assert told("a directory of `LABEL/*.txt`") == '`text` builder, `sample_by="document"`, without labels'
    (tmp_path / "of_files" / "notes.md").write_text("x")
    assert {"text": "x"} in read("text", "of_files", None)
    assert told("a file in either") == "read as text"
