"""Hints on data files: the file as it was given, and as the hint says to make it or to read it."""

import bz2
import gzip
import io
import json
import re
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from pyarrow import parquet

from glmquant.data import columnar, json_values, labeled_directory, streams
from glmquant.data.calibration import sample_calibration
from glmquant.data.chat_tokens import ChatEncoder
from glmquant.data.chat_windows import read_chats
from glmquant.data.choices import read_questions
from glmquant.data.conversations import Said
from glmquant.data.fields import text_value
from glmquant.data.labeled import read_labeled
from glmquant.data.reading import USUAL, Reading
from glmquant.data.record import Record
from glmquant.data.sequences import encode_texts
from glmquant.data.text import read_conversations, read_documents, read_lines
from glmquant.data.windows import read_windows
from glmquant.errors import GlmQuantError
from glmquant.recipe.load import load_recipe, parse_override
from tests.hints.follow import follows, met_errors, named, refused
from tests.hints.places import Hint
from tests.support.golden import tokenizer as golden
from tests.support.handed import LFS_POINTER
from tests.support.tokenizers import Letters

Read = Callable[[Path, Reading], object]


def texts(path: Path, reading: Reading) -> object:
    return list(read_documents(path, reading))


def labels(path: Path, reading: Reading) -> object:
    return read_labeled(path, reading=reading)


def of_two_labels(path: Path, reading: Reading) -> object:
    return read_labeled(path, known={"pos": "", "neg": ""}, reading=reading)


def lines(path: Path, reading: Reading) -> object:
    return list(read_lines(path, reading))


def conversations(path: Path, reading: Reading) -> object:
    return list(read_conversations(path, reading))


def questions(path: Path, reading: Reading) -> object:
    return read_questions(path, reading=reading)


@dataclass(frozen=True)
class Mended:
    """A file that is refused with a hint, and what following it gives: other bytes, another name, another reading."""

    hint: Hint
    name: str
    bad: bytes
    good: bytes | None = None
    good_name: str | None = None
    read: Read = texts
    reading: Reading = field(default=USUAL)
    good_reading: Reading = field(default=USUAL)


def jsonl(*records: Any) -> bytes:
    return "\n".join(json.dumps(each) for each in records).encode()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


def workbook(*sheets: Sequence[Sequence[Any]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)  # type: ignore[arg-type]
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"Sheet{number}")
        for row in rows:
            sheet.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def parquet_of(*columns: str) -> bytes:
    buffer = io.BytesIO()
    arrays = [pa.array([f"{name} {number}" for number in range(3)]) for name in columns]
    parquet.write_table(pa.Table.from_arrays(arrays, names=list(columns)), buffer)
    return buffer.getvalue()


TWO = jsonl({"text": "a", "label": "pos"}, {"text": "b", "label": "neg"})
ASKED = {"question": "q", "choices": ["x", "y"], "answer": "A"}
ANSWER = {"role": "assistant", "content": "b"}
CHAT = {"messages": [{"role": "user", "content": "a"}, ANSWER]}
LATIN = "Où est passé le café français, s'il vous plaît ?\n".encode("cp1252")
CHINESE = ("今天天气很好，我们去公园散步。" * 5).encode("gb18030")
PLAIN = b"plain text\n"
CSV = b"text\nplain text\n"

MENDED = {
    "a null question": Mended(
        named("fill it, or drop the record", "data.choices"), "q.jsonl", jsonl(ASKED | {"question": None}, ASKED),
        jsonl(ASKED), read=questions,
    ),
    "a repeated column of Parquet": Mended(
        named("rename one", "_refused_twice"), "a.parquet", parquet_of("text", "text"), parquet_of("text", "title"),
    ),
    "a repeated column of a sheet": Mended(
        named("rename one", "columnar:_header"), "a.xlsx", workbook([["text", "text"], ["a", "b"]]),
        workbook([["text", "note"], ["a", "b"]]),
    ),
    "a repeated column of a table": Mended(
        named("rename one", "data.tables"), "a.csv", b"text,text\na,b\n", b"text,note\na,b\n",
    ),
    "a damaged Parquet file": Mended(
        named("fetch or write it again"), "a.parquet", parquet_of("text")[:-60] + b"\0" * 60, parquet_of("text"),
    ),
    "a damaged workbook": Mended(
        named("save it again, or as CSV in UTF-8"), "a.xlsx", zipped(xl__workbook_xml=b"<"), CSV, "a.csv",
    ),
    "two sheets": Mended(
        named("save the sheet you want by itself, e.g. as CSV in UTF-8"), "a.xlsx",
        workbook([["text"], ["a"]], [["text"], ["b"]]), workbook([["text"], ["a"]]),
    ),
    "a cell under no name": Mended(
        named("name the column, or empty the cells"), "a.xlsx", workbook([["text"], ["a", "b"]]),
        workbook([["text", "note"], ["a", "b"]]),
    ),
    "an assistant that begins": Mended(
        named("mend the record, or leave it out"), "a.jsonl",
        jsonl({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}),
        jsonl({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
    ),
    "a mark and another encoding": Mended(
        named("leave the encoding out: the mark tells it"), "a.txt", "好".encode("utf-16"),
        reading=Reading(encoding="gb18030"),
    ),
    "the wrong encoding": Mended(
        named("leave the encoding out, or name another"), "a.txt", "好é".encode(), reading=Reading(encoding="ascii"),
    ),
    "UTF-8 with a bad byte": Mended(
        named("it is UTF-8 elsewhere: fetch it again, or drop such bytes with: iconv -c -f UTF-8 -t UTF-8 FILE > OTHER"),
        "a.txt", "很好的文字".encode() + b"\xff" + "很好的文字".encode(), "很好的文字很好的文字".encode(),
    ),
    "an unknown label": Mended(
        named("did you mean {}?", "data.labeled:_unknown"), "a.jsonl",
        jsonl({"text": "a", "label": "poss"}, {"text": "b", "label": "neg"}), TWO, read=of_two_labels,
    ),
    "a field in other words": Mended(
        named("did you mean {}?", "data.fields:resolved"), "a.jsonl", jsonl({"texts": "a"}),
        reading=Reading(text_field="textes"), good_reading=Reading(text_field="texts"),
    ),
    "a record after others without their field": Mended(
        named("{}give it to this record too, or leave the record out; {}", "_no_field"), "a.jsonl",
        jsonl({"text": "a"}, {"id": "b"}), jsonl({"text": "a"}),
    ),
    "no field at all": Mended(
        named("give it one: none of its fields has a name", "_no_field"), "a.jsonl", jsonl({"": "a"}),
        jsonl({"text": "a"}),
    ),
    "a turn under another name": Mended(
        named("rename the one that holds its text; its fields are: {}"), "a.jsonl",
        jsonl({"messages": [{"role": "user", "text": "a"}, ANSWER]}), jsonl(CHAT),
    ),
    "a cell of turns that is cut": Mended(
        named("write the data as JSON Lines or Parquet: in pandas, .to_json('data.jsonl', orient='records', lines=True)"),
        "a.csv", b"messages\n\"[{'role': 'user', 'content': 'a'}, {'role': \"\n",
        jsonl(CHAT), "data.jsonl",
    ),
    "a text among conversations": Mended(
        named("check texts and conversations apart, in files of their own"), "a.jsonl",
        jsonl(CHAT, {"text": "b"}), jsonl(CHAT), read=conversations,
    ),
    "labels that look alike": Mended(
        named("write each label in one way: drop byte order marks, zero-width and no-break spaces"), "a.jsonl",
        jsonl({"text": "a", "label": "pos"}, {"text": "b", "label": "pos\u200b"}, {"text": "c", "label": "neg"}),
        jsonl({"text": "a", "label": "pos"}, {"text": "b", "label": "pos"}, {"text": "c", "label": "neg"}), read=labels,
    ),
    "several lists of records": Mended(
        named("take one out, e.g. with: jq -c {} FILE > {}.jsonl"), "a.json",
        jsonl({"train": [{"text": "a"}], "test": [{"text": "b"}]}), jsonl({"text": "a"}), "train.jsonl",
    ),
    "no labels": Mended(
        named('write {"text": "…", "label": "…"} in each line, or a line "text,label" above the rows of a table'),
        "a.txt", b"a pos\nb neg\n", b"text,label\na,pos\nb,neg\n", "a.csv", read=labels,
    ),
    "a label that pandas made a decimal": Mended(
        named("write whole numbers; an empty cell elsewhere in the column makes pandas write decimals"), "a.jsonl",
        jsonl({"text": "a", "label": 1.0}, {"text": "b", "label": 0.0}),
        jsonl({"text": "a", "label": 1}, {"text": "b", "label": 0}), read=labels,
    ),
    "an empty label": Mended(
        named("fill it, or drop the record", "data.labeled"), "a.jsonl", jsonl({"text": "c", "label": ""}) + b"\n" + TWO,
        TWO, read=labels,
    ),
    "Python's notation": Mended(
        named("write it with json.dumps"), "a.jsonl", b"{'text': 'a'}\n", jsonl({"text": "a"}),
    ),
    "text that is called JSON": Mended(
        named("give it the ending .txt if it is plain text"), "a.jsonl", PLAIN, good_name="a.txt",
    ),
    "text that is called a workbook": Mended(
        named("give it the ending .txt", "_broken_promise"), "a.xlsx", PLAIN, good_name="a.txt",
    ),
    "a null text": Mended(
        named("fill {}, or drop the record"), "a.jsonl", jsonl({"text": None}, {"text": "a"}), jsonl({"text": "a"}),
        read=lines,
    ),
    "compressed three times": Mended(
        named("decompress it once"), "a.gz", gzip.compress(gzip.compress(bz2.compress(PLAIN))),
        gzip.compress(bz2.compress(PLAIN)),
    ),
    "a cut archive": Mended(
        named("fetch or make it again"), "a.gz", gzip.compress(PLAIN)[:-12], gzip.compress(PLAIN),
    ),
    "a zip in an archive": Mended(
        named("unpack it first", "_only_member"), "a.gz", gzip.compress(zipped(a_txt=PLAIN)), zipped(a_txt=PLAIN), "a.zip",
    ),
    "a zip of two files": Mended(
        named("unpack it, and give the files you want"), "a.zip", zipped(a_txt=PLAIN, b_txt=PLAIN), PLAIN, "a.txt",
    ),
    "separators in a text": Mended(
        named('put a text that holds the separator, a quote or a line end in quotes: "good, but small"'), "a.csv",
        b"text,label\ngood, but small,pos\n", b'text,label\n"good, but small",pos\n',
    ),
    "the header twice": Mended(
        named("remove the line"), "a.csv", b"text,label\na,pos\ntext,label\n", b"text,label\na,pos\n",
    ),
    "a PDF": Mended(named("take its text out, e.g. with: pdftotext FILE.pdf"), "a.pdf", b"%PDF-1.7", PLAIN, "a.txt"),
    "an Avro file": Mended(
        named("write its records as JSON Lines", "signatures"), "a.avro", b"Obj\x01", jsonl({"text": "a"}), "a.jsonl",
    ),
    "a numpy array": Mended(
        named("give text: tokens and features are no input here", "signatures:foreign_zip"), "a.npz",
        zipped(a_npy=b"\x93NUMPY"), PLAIN, "a.txt",
    ),
    "numpy arrays": Mended(
        named("give text: tokens and features are no input here", "signatures:foreign"), "a.npy", b"\x93NUMPY", PLAIN,
        "a.txt",
    ),
    "a GGUF model": Mended(named("give text, not a model"), "a.gguf", b"GGUF\x03\0", PLAIN, "a.txt"),
    "a PyTorch file": Mended(named("give text, not tensors"), "a.pt", zipped(a__data_pkl=b"x"), PLAIN, "a.txt"),
    "an old Excel file": Mended(
        named("save it as .xlsx, or as CSV in UTF-8", "signatures:foreign"), "a.xls", b"\xd0\xcf\x11\xe0", CSV, "a.csv",
    ),
    "a binary Excel file": Mended(
        named("save it as .xlsx, or as CSV in UTF-8", "signatures:foreign_zip"), "a.xlsb", zipped(xl__workbook_bin=b"x"),
        workbook([["text"], ["a"]]), "a.xlsx",
    ),
    "an OpenDocument file": Mended(
        named("save it as .xlsx, as CSV, or as plain text"), "a.ods", zipped(content_xml=b"x"), CSV, "a.csv",
    ),
    "a Word document": Mended(
        named("save it as plain text in UTF-8"), "a.docx", zipped(word__document_xml=b"x"), PLAIN, "a.txt",
    ),
    "a PowerPoint file": Mended(
        named("save its text in a file"), "a.pptx", zipped(ppt__presentation_xml=b"x"), PLAIN, "a.txt",
    ),
    "a 7z archive": Mended(named("unpack it, and give the file inside"), "a.7z", b"7z\xbc\xaf", PLAIN, "a.txt"),
    "a tar archive": Mended(
        named("unpack it with tar xf, and give the files inside"), "a.tar", b"\0" * 257 + b"ustar" + b"\0" * 250, PLAIN,
        "a.txt",
    ),
    "a pickle": Mended(
        named("write its records as JSON Lines where they come from"), "a.pkl", b"\x80\x04\x95", jsonl({"text": "a"}),
        "a.jsonl",
    ),
    "an HTML page": Mended(
        named("if it is an error page of a download, download again; else take the text out of it"), "a.txt",
        b"<!doctype html><html>", PLAIN,
    ),
    "XML": Mended(
        named("take the text out of it, into a text file or JSON Lines"), "a.xml", b'<?xml version="1.0"?>', PLAIN,
        "a.txt",
    ),
    "a Git LFS pointer": Mended(named("git lfs pull fetches what it points to"), "a.txt", LFS_POINTER, PLAIN),
}  # fmt: skip


@pytest.mark.parametrize("case", MENDED.values(), ids=MENDED)
def test_the_file_is_read_once_it_is_as_the_hint_says(tmp_path: Path, case: Mended) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.bad)
    with met_errors() as met:
        refused(lambda: case.read(path, case.reading))
    assert any(each.is_of(case.hint) for each in met), met
    good = tmp_path / (case.good_name or case.name)
    good.write_bytes(case.bad if case.good is None else case.good)
    assert case.read(good, case.good_reading)


def run(command: str, directory: Path, **names: str) -> None:
    """Types a command of a hint with its capitals filled in; an iconv that drops bytes ends with 1."""
    for name, value in names.items():
        command = re.sub(rf"\b{name}\b", value, command)
    done = subprocess.run(["sh", "-c", command], cwd=directory, capture_output=True, check=False)
    if done.returncode == 127:
        pytest.skip(f"{command.split()[0]} is not installed")
    assert done.returncode == 0 or command.startswith("iconv"), done.stderr


def command_of(error: GlmQuantError, program: str) -> str:
    return program + str(error.hint).partition(program)[2]


def test_iconv_drops_the_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("很好的文字".encode() + b"\xff" + "很好的文字".encode())
    error = refused(lambda: texts(tmp_path / "a.txt", USUAL))
    run(command_of(error, "iconv"), tmp_path, FILE="a.txt", OTHER="b.txt")
    assert texts(tmp_path / "b.txt", USUAL) == ["很好的文字" * 2]


def test_jq_takes_a_list_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(jsonl({"train": [{"text": "a"}], "test": [{"text": "b"}]}))
    run(command_of(refused(lambda: texts(tmp_path / "a.json", USUAL)), "jq"), tmp_path, FILE="a.json")
    assert texts(tmp_path / "train.jsonl", USUAL) == ["a\n"]


@follows("take one out, e.g. with: jq -c {} FILE > {}.jsonl, or the record with: jq -c {} FILE > record.jsonl")
def test_jq_takes_the_list_or_the_text_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(
        jsonl({"text": "whole", "the author's": [{"text": "a"}], "data": [{"text": "b"}]})
    )
    taken = command_of(refused(lambda: texts(tmp_path / "a.json", USUAL)), "jq")
    for command in taken.split(", or the record with: "):
        run(command, tmp_path, FILE="a.json")
    assert texts(tmp_path / "the_author_s.jsonl", USUAL) == ["a\n"]
    assert json.loads((tmp_path / "record.jsonl").read_text()) == {"text": "whole", "data": [{"text": "b"}]}


@follows("write a record a line, e.g. with: jq -c '.data[]' FILE > FILE.jsonl")
def test_jq_writes_a_record_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "LARGEST_RECORD", 100)
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"text": "long enough"} for _ in range(9)]}))
    run(command_of(refused(lambda: texts(tmp_path / "a.json", USUAL)), "jq"), tmp_path, FILE="a.json")
    assert texts(tmp_path / "a.json.jsonl", USUAL) == ["long enough\n"] * 9


@follows("<foreign>", "kind_of")
def test_what_holds_no_text_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<?xml version="1.0"?><a>text</a>')
    refused(lambda: texts(tmp_path / "a.xml", USUAL), "take the text out of it")
    (tmp_path / "a.txt").write_text("text")
    assert texts(tmp_path / "a.txt", USUAL) == ["text"]


@follows("sqlite3 -header -csv FILE 'select text from TABLE' > data.csv")
def test_sqlite_writes_a_table(tmp_path: Path) -> None:
    import sqlite3

    base = sqlite3.connect(tmp_path / "a.db")
    base.execute("create table reviews (text)")
    base.execute("insert into reviews values ('good, but small')")
    base.commit()
    base.close()
    command = command_of(refused(lambda: texts(tmp_path / "a.db", USUAL)), "sqlite3")
    run(command, tmp_path, FILE="a.db", TABLE="reviews")
    assert texts(tmp_path / "data.csv", USUAL) == ["good, but small\n"]


@follows("decompress it: lz4 -dc FILE > OTHER")
def test_lz4_decompresses(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(PLAIN)
    run("lz4 -q a.txt packed", tmp_path)
    command = command_of(refused(lambda: texts(tmp_path / "packed", USUAL)), "lz4")
    run(command, tmp_path, FILE="packed", OTHER="b.txt")
    assert texts(tmp_path / "b.txt", USUAL) == [PLAIN.decode()]


@follows("in Python: pyarrow.orc.read_table(FILE), then pyarrow.parquet.write_table")
def test_orc_becomes_parquet(tmp_path: Path) -> None:
    from pyarrow import orc

    orc.write_table(pa.table({"text": ["a"]}), tmp_path / "a.orc")
    refused(lambda: texts(tmp_path / "a.orc", USUAL))
    parquet.write_table(orc.read_table(tmp_path / "a.orc"), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", USUAL) == ["a\n"]


NAMED: dict[str, tuple[Hint, bytes, str, Read]] = {
    "UTF-16 without a mark": (
        named("<advice>", "encodings:_unmarked"), "plain text\n".encode("utf-16-le"), "encoding", texts,
    ),
    "cp1252": (named("it looks like {}: {}"), LATIN, "encoding", texts),
    "GB18030": (named("it looks like {}: {}"), CHINESE, "encoding", texts),
    "two texts": (named("<advice>", "meant_fields"), jsonl({"text": "a", "content": "b"}), "text_field", texts),
    "another text": (named("{}; {}{}", "_no_field"), jsonl({"my text": "a"}), "text_field", texts),
    "two labels": (
        named("<advice>", "label_field"),
        jsonl({"text": "a", "label": "x", "class": "y"}, {"text": "b", "label": "z", "class": "y"}), "label_field", labels,
    ),
}  # fmt: skip


def advised(hint: str, path: Path, key: str) -> Reading:
    """The reading that a hint asks for, in whichever words: of a recipe, of the library, of a command."""
    first = re.split(r" or (?=set |give )", re.sub(r"^it looks like [\w-]+: ", "", hint))[0]
    if found := re.search(r"set (\S+=.*)$", first):
        name, value = parse_override(found[1])
        recipe = load_recipe(None, {name: value})
        if name == "check.tasks":
            assert recipe.check.tasks[0].data == str(path)
            return Reading(**{key: getattr(recipe.check.tasks[0], key)})
        section = getattr(recipe, name.partition(".")[0])
        return Reading(**{key: getattr(section, key)})
    told = re.search(rf"give (.+) as `{key}`$", first) or re.search(rf"give --{key.replace('_', '-')} (.+)$", first)
    assert told is not None, hint
    return Reading(**{key: json.loads(told[1]) if told[1].startswith('"') else told[1]})


SECTIONS = {
    "the library": USUAL,
    "calibration": Reading(section="calibration"),
    "a task": Reading(section="check.tasks"),
    "a command": Reading(
        options={"encoding": "--encoding", "text_field": "--text-field", "label_field": "--label-field"}
    ),
}


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
def test_what_the_hint_names_is_read(tmp_path: Path, case: tuple[Hint, bytes, str, Read], section: Reading) -> None:
    hint, content, key, read = case
    if key == "label_field" and section.section == "calibration":
        pytest.skip("calibration reads no labels")
    path = tmp_path / ("a.txt" if key == "encoding" else "a.jsonl")
    path.write_bytes(content)
    with met_errors() as met:
        error = refused(lambda: read(path, section))
    assert any(each.is_of(hint) for each in met), met
    assert read(path, advised(str(error.hint), path, key))


@pytest.mark.parametrize(
    ("wording", "section"),
    [
        (named("give {} as `{}`", "reading:advice"), SECTIONS["the library"]),
        (named("give {} {}", "reading:advice"), SECTIONS["a command"]),
        (named("set check.tasks=[{data: {}, {}: {}}]", "reading:advice"), SECTIONS["a task"]),
        (named("set {}.{}={}", "reading:advice"), SECTIONS["calibration"]),
    ],
    ids=str,
)
def test_each_way_to_say_it_is_understood(tmp_path: Path, wording: Hint, section: Reading) -> None:
    for value in ("review", "my text", "1", "a,b", "yes", "问题", 'so "called"'):
        told = section.advice("text_field", value, tmp_path / "a.jsonl")
        assert wording.fits(told)
        assert advised(told, tmp_path / "a.jsonl", "text_field").text_field == value


@follows("give it to this record too; its fields are: {}", "data.fields:text_value")
def test_each_record_has_the_field(tmp_path: Path) -> None:
    refused(lambda: text_value(Record({"body": "b"}, 1), "text", tmp_path))
    assert text_value(Record({"text": "b"}, 1), "text", tmp_path) == "b"


@follows("say what it is, e.g. {}")
def test_an_encoding_that_is_not_recognized_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glmquant.data.encodings.guessed_encoding", lambda sample: None)
    (tmp_path / "a.txt").write_bytes(CHINESE)
    error = refused(lambda: texts(tmp_path / "a.txt", Reading(section="calibration")))
    assert texts(tmp_path / "a.txt", advised(str(error.hint), tmp_path, "encoding"))


@follows("write it again as JSON Lines, or with smaller row groups")
def test_rows_of_smaller_groups_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "FREE_BYTES", 1000)
    monkeypatch.setattr(columnar, "MOST_RATIO", 2)
    table = pa.table({"text": ["repeated " * 1000] * 3})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    refused(lambda: texts(tmp_path / "a.parquet", USUAL))
    (tmp_path / "a.jsonl").write_bytes(jsonl(*table.to_pylist()))
    assert texts(tmp_path / "a.jsonl", USUAL)


@follows("save it as CSV in UTF-8")
def test_a_large_workbook_is_read_as_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "LARGEST_WORKBOOK", 100)
    (tmp_path / "a.xlsx").write_bytes(workbook([["text"], ["a"]]))
    refused(lambda: texts(tmp_path / "a.xlsx", USUAL))
    (tmp_path / "a.csv").write_bytes(CSV)
    assert texts(tmp_path / "a.csv", USUAL)


@follows("if it is, decompress it yourself and give the file")
def test_what_inflates_far_is_read_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1000)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a" * 2_000_000))
    refused(lambda: texts(tmp_path / "a.txt.gz", USUAL))
    (tmp_path / "a.txt").write_bytes(gzip.decompress((tmp_path / "a.txt.gz").read_bytes()))
    assert texts(tmp_path / "a.txt", USUAL)


@follows("write a file")
def test_what_a_pipe_gives_too_much_of_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LARGEST_SPOOL", 4)
    refused(lambda: streams._spool(io.BytesIO(PLAIN), Path("-")))
    (tmp_path / "a.txt").write_bytes(PLAIN)
    assert texts(tmp_path / "a.txt", USUAL)


@follows("pip install 'glmquant[data]'")
def test_the_extra_has_every_optional_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_of("text"))
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "pyarrow", None)
        refused(lambda: texts(tmp_path / "a.parquet", USUAL))
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extra = re.search(r"^data = \[(.*)\]$", project, re.MULTILINE)
    assert extra is not None
    assert {"pyarrow", "openpyxl", "zstandard"} == set(re.findall(r'"(\w+)>', extra[1]))
    assert texts(tmp_path / "a.parquet", USUAL)


@follows("name its files, one by one: {}")
def test_the_files_of_a_directory_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(PLAIN)
    name = str(refused(lambda: texts(tmp_path, USUAL)).hint).rpartition(": ")[2]
    assert texts(tmp_path / name, USUAL)


@follows(
    "it is what datasets' save_to_disk writes; in Python: datasets.load_from_disk({}).to_json('data.jsonl'), a split at a time"
)
def test_a_saved_dataset_is_written_as_json_lines(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    refused(lambda: texts(tmp_path, USUAL))
    (tmp_path / "data.jsonl").write_bytes(jsonl({"text": "a"}))
    assert texts(tmp_path / "data.jsonl", USUAL)


@follows("in Python: datasets.Dataset.from_file(FILE).to_json('data.jsonl')")
def test_an_arrow_file_is_written_as_json_lines(tmp_path: Path) -> None:
    with pa.ipc.new_file(tmp_path / "a.arrow", pa.schema({"text": pa.string()})) as file:
        file.write(pa.record_batch({"text": ["a"]}))
    refused(lambda: texts(tmp_path / "a.arrow", USUAL))
    (tmp_path / "data.jsonl").write_bytes(jsonl(*pa.ipc.open_file(tmp_path / "a.arrow").read_all().to_pylist()))
    assert texts(tmp_path / "data.jsonl", USUAL) == ["a\n"]


@follows("lower the task's limit", "choices")
@follows("lower the task's limit", "data.labeled")
def test_a_lower_limit_is_met(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(jsonl(ASKED))
    refused(lambda: read_questions(tmp_path / "q.jsonl", 2))
    assert len(read_questions(tmp_path / "q.jsonl", 1)) == 1
    (tmp_path / "l.jsonl").write_bytes(TWO)
    refused(lambda: read_labeled(tmp_path / "l.jsonl", 3))
    assert len(read_labeled(tmp_path / "l.jsonl", 2).examples) == 2


def files(directory: Path, **contents: bytes) -> Path:
    """A directory with the files of these names: ``pos_txt``, ``pos__1_txt``."""
    for name, content in contents.items():
        path = directory / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


Change = Callable[[Path], object]


def moved(name: str) -> Change:
    return lambda directory: (directory / name).rename(directory.parent / "away")


def removed(name: str) -> Change:
    return lambda directory: (directory / name).unlink()


DIRECTORIES: dict[str, tuple[Hint, dict[str, bytes], Change]] = {
    "a label without texts": (
        named("add texts of it, or remove it"), {"pos__1_txt": b"a", "neg__1_txt": b"b", "odd___hidden": b""},
        lambda directory: (directory / "odd" / "1.txt").write_bytes(b"c"),
    ),
    "a file beside directories": (
        named("move it away", "_refuse_stray"), {"pos__1_txt": b"a", "neg__1_txt": b"b", "note_txt": b"c"},
        moved("note.txt"),
    ),
    "a file of no label": (
        named("move it away, or name it LABEL.txt if it is one"), {"pos_txt": b"a", "neg_txt": b"b", "odd_md": b"c"},
        lambda directory: (directory / "odd.md").rename(directory / "odd.txt"),
    ),
    "a file of no text": (
        named("move it away", "_whole_texts"), {"pos__1_txt": b"a", "neg__1_txt": b"b", "neg__odd_md": b"c"},
        moved("neg/odd.md"),
    ),
    "an empty text": (
        named("remove the file", "labeled_directory"), {"pos__1_txt": b"a", "neg__1_txt": b"b", "neg__2_txt": b" " * 100_000},
        removed("neg/2.txt"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DIRECTORIES.values(), ids=DIRECTORIES)
def test_a_directory_of_labels_is_put_in_order(tmp_path: Path, case: tuple[Hint, dict[str, bytes], Change]) -> None:
    hint, contents, change = case
    directory = files(tmp_path / "data", **contents)
    with met_errors() as met:
        refused(lambda: read_labeled(directory))
    assert any(each.is_of(hint) for each in met), met
    change(directory)
    assert len(read_labeled(directory).labels) >= 2


@follows("give the file itself as the data")
def test_records_in_a_directory_of_labels_are_given_themselves(tmp_path: Path) -> None:
    directory = files(tmp_path / "data", pos_txt=TWO, neg_txt=b"b")
    refused(lambda: read_labeled(directory))
    assert read_labeled(directory / "pos.txt")


@follows("give JSON Lines")
def test_large_texts_of_a_label_are_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeled_directory, "LARGEST_TEXT", 10)
    directory = files(tmp_path / "data", pos_txt=b"a long text", neg_txt=b"b")
    refused(lambda: read_labeled(directory))
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": "a long text", "label": "pos"}, {"text": "b", "label": "neg"}))
    assert read_labeled(tmp_path / "a.jsonl")


@follows("unpack it first", "_only_member")
def test_an_encrypted_zip_is_unpacked(tmp_path: Path) -> None:
    content = bytearray(zipped(a_txt=PLAIN))
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    assert "is encrypted" in refused(lambda: texts(tmp_path / "a.zip", USUAL)).what
    (tmp_path / "a.txt").write_bytes(PLAIN)
    assert texts(tmp_path / "a.txt", USUAL)


@follows("leave it out", "encode_texts")
def test_without_the_empty_text_the_rest_is_encoded() -> None:
    refused(lambda: encode_texts(["a", " "], Letters(), 8))
    assert len(encode_texts(["a"], Letters(), 8).ids) == 1


def letters(directory: Path, *sizes: int) -> list[Path]:
    paths = [directory / f"{number}.txt" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_text("a" * size)
    return paths


def sample(paths: list[Path], weights: Sequence[float], num_samples: int, seq_len: int = 10) -> object:
    return sample_calibration(paths, weights, Letters(), num_samples=num_samples, seq_len=seq_len)


def setting(error: GlmQuantError) -> int:
    return int(str(error.hint).rpartition("=")[2])


@follows("give more text, or set calibration.num_samples={}")
@pytest.mark.parametrize(
    ("sizes", "weights", "num_samples"),
    [((35,), (1,), 9), ((35, 400, 400), (1, 3, 3), 32), ((400, 95), (0.5, 3), 20)],
    ids=["one file", "shares that are rounded up", "a large share"],
)
def test_so_many_samples_can_be_drawn(
    tmp_path: Path, sizes: tuple[int, ...], weights: tuple[float, ...], num_samples: int
) -> None:
    paths = letters(tmp_path, *sizes)
    error = refused(lambda: sample(paths, weights, num_samples))
    sample(paths, weights, setting(error))
    sample(letters(tmp_path, *(20 * size for size in sizes)), weights, num_samples)


@follows("give more text, or lower calibration.num_samples and calibration.seq_len")
def test_fewer_and_shorter_samples_can_be_drawn(tmp_path: Path) -> None:
    paths = letters(tmp_path, 50)
    refused(lambda: sample(paths, (1,), 64, seq_len=64))
    sample(paths, (1,), 4, seq_len=8)
    sample(letters(tmp_path, 64 * 64), (1,), 64, seq_len=64)


@follows("raise calibration.num_samples or the file's weight, or leave the file out")
def test_each_file_has_a_share(tmp_path: Path) -> None:
    paths = letters(tmp_path, 5000, 5000)
    refused(lambda: sample(paths, (20, 1), 4))
    sample(paths, (20, 1), 40)
    sample(paths, (2, 1), 4)
    sample(paths[:1], (20,), 4)


@follows("give more text, or set check.num_tokens={}")
@follows("give more text, or lower check.num_tokens and check.seq_len")
def test_a_text_to_evaluate_on_is_long_enough(tmp_path: Path) -> None:
    (path,) = letters(tmp_path, 50)
    error = refused(lambda: read_windows(path, Letters(), num_tokens=64, seq_len=16))
    assert len(read_windows(path, Letters(), num_tokens=setting(error), seq_len=16).windows) == 3
    refused(lambda: read_windows(path, Letters(), num_tokens=64, seq_len=64), "and check.seq_len")
    assert read_windows(path, Letters(), num_tokens=32, seq_len=32)
    assert read_windows(letters(tmp_path, 64)[0], Letters(), num_tokens=64, seq_len=64)


class Silent(Letters):
    def decode(self, ids: Sequence[int]) -> str:
        return ""


@follows("use the model's own tokenizer")
def test_the_models_own_tokenizer_decodes(tmp_path: Path) -> None:
    (path,) = letters(tmp_path, 50)
    refused(lambda: read_windows(path, Silent(), num_tokens=16, seq_len=16))
    assert read_windows(path, Letters(), num_tokens=16, seq_len=16)


CHATS = golden("chatglm3-tiny")


def chats(path: Path, count: int) -> Path:
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer " * 8}]
    path.write_bytes(jsonl(*({"messages": turns} for _ in range(count))))
    return path


@follows("give more, or set check.num_tokens={}")
@follows("give more, or lower check.num_tokens and check.seq_len")
def test_there_are_conversations_enough(tmp_path: Path) -> None:
    path = chats(tmp_path / "a.jsonl", 3)
    error = refused(lambda: read_chats(path, CHATS, num_tokens=900, seq_len=20))
    assert read_chats(path, CHATS, num_tokens=setting(error), seq_len=20)
    refused(lambda: read_chats(path, CHATS, num_tokens=900, seq_len=512), "and check.seq_len")
    assert read_chats(path, CHATS, num_tokens=32, seq_len=32)
    assert read_chats(chats(path, 90), CHATS, num_tokens=900, seq_len=512)


@follows("raise check.seq_len, or set check.scored=all")
def test_some_token_is_scored(tmp_path: Path) -> None:
    path = chats(tmp_path / "a.jsonl", 3)
    refused(lambda: read_chats(path, CHATS, num_tokens=2, seq_len=2, scored="answers"))
    assert read_chats(path, CHATS, num_tokens=40, seq_len=40, scored="answers")
    assert read_chats(path, CHATS, num_tokens=2, seq_len=2, scored="all")


@follows("set check.scored=all", "_stop")
def test_all_tokens_are_scored_where_those_of_answers_cannot_be_told(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% if loop.last %}the very last: {% endif %}{{ m.content }} {% endfor %}"
    encoder = ChatEncoder(replace(CHATS, chat_template=template))
    turns = [Said("user", "a"), Said("assistant", "b c d"), Said("user", "e"), Said("assistant", "f")]
    refused(lambda: encoder.answers(turns, encoder.ids(turns, "x"), "x", 99))
    path = chats(tmp_path / "a.jsonl", 3)
    assert read_chats(path, replace(CHATS, chat_template=template), num_tokens=40, seq_len=40, scored="all")
