from pathlib import Path

import pytest

from glmquant.data.reading import Reading
from glmquant.data.text import read_documents
from glmquant.errors import DataError, RecipeError
from glmquant.recipe.load import load_recipe, parse_override

CHINESE = "今天的会议改到下午一点，请把材料提前发给我。\n" * 3
TEXTS = {
    "gb18030": CHINESE,
    "big5": "今天的會議改到下午一點，請把材料提前發給我。謝謝各位的合作。",
    "shift_jis": "今日の会議は午後一時に変更されました。資料を送ってください。",
    "euc_kr": "오늘 회의는 오후 한 시로 변경되었습니다. 자료를 보내 주세요.",
    "cp1252": "café au lait, déjà vu à la carte, garçon, élève naïve",
    "cp1251": "Сегодня встреча перенесена на час дня, пришлите материалы.",
    "utf-16-le": "The meeting is at one. 今天",
    "utf-16-be": "The meeting is at one. 今天",
}


def read(path: Path, encoding: str | None = None) -> str:
    return "".join(str(piece) for piece in read_documents(path, Reading("calibration", encoding)))


@pytest.mark.parametrize("encoding", TEXTS)
def test_another_encoding_is_named_and_the_advice_reads_it(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    text = TEXTS[encoding] * 3
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError) as caught:
        read(path)
    key, value = parse_override(str(caught.value.hint).rpartition("set ")[2])
    options = load_recipe(None, {key: value}).calibration
    assert read(path, options.encoding) == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("named", [None, "same"])
def test_a_mark_tells_the_encoding(tmp_path: Path, encoding: str, named: str | None) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(CHINESE.encode(encoding))
    assert read(path, named and encoding.removesuffix("-sig")) == CHINESE


def test_a_mark_and_another_name_contradict(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(CHINESE.encode("utf-16"))
    with pytest.raises(DataError, match="the mark of UTF-16, and is to be read as gb18030"):
        read(path, "gb18030")


def test_a_table_and_json_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("id,text\n1,今天\n".encode("gb18030"))
    (tmp_path / "a.jsonl").write_bytes('{"text": "今天"}\n'.encode("gb18030"))
    (tmp_path / "sheet.csv").write_bytes("id\ttext\n1\t今天\n".encode("utf-16"))  # as Excel's "Unicode text"
    assert read(tmp_path / "a.csv", "gbk") == read(tmp_path / "a.jsonl", "gbk") == "今天\n"
    assert read(tmp_path / "sheet.csv") == "今天\n"


def test_one_bad_byte_in_utf8_is_no_other_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(CHINESE.encode() + b"\xff" + CHINESE.encode())
    with pytest.raises(DataError, match=r"it is UTF-8 elsewhere[\s\S]*iconv -c"):
        read(path)


def test_the_wrong_name_says_where_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("ab\n好".encode())
    with pytest.raises(DataError, match=r"is not ASCII: the byte at offset 3 \(line 2\)[\s\S]*leave the encoding out"):
        read(path, "ascii")


def test_zeros_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(4096))
    with pytest.raises(DataError, match="the file is no text: 4096 of its first 4096 bytes are zero"):
        read(path)


def test_an_unknown_encoding_is_refused_with_the_recipe() -> None:
    for key in ("calibration", "check", "train"):
        with pytest.raises(ValueError, match="no encoding 'gb1803'; expected one such as gb18030"):
            load_recipe(None, {f"{key}.encoding": "gb1803"})
    with pytest.raises(ValueError, match="no encoding 'base64'"):
        load_recipe(None, {"calibration.encoding": "base64"})


@pytest.mark.parametrize("encoding", ["nonsense", "", "hex", "idna", "punycode", "base64"])
def test_what_is_no_encoding_of_text_is_refused(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text")
    with pytest.raises(DataError, match="no encoding"):
        list(read_documents(tmp_path / "a.txt", Reading(encoding=encoding)))
    with pytest.raises(RecipeError, match="no encoding"):
        load_recipe(None, {"calibration.encoding": encoding})
