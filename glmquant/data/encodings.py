"""Which encoding a file's text is in: by its mark, by its owner's word, else UTF-8; others are recognized and named."""

import codecs
import io
from typing import Final

from glmquant.core.encodings import known_encoding
from glmquant.data.reading import Reading
from glmquant.data.streams import HEAD, DataFile
from glmquant.errors import DataError

MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
FAMILIES: Final = {
    "gb18030": ("gb18030", "gbk", "gb2312", "cp936"),
    "big5": ("big5", "big5hkscs", "cp950"),
    "shift_jis": ("shift_jis", "cp932", "shift_jis_2004", "shift_jisx0213"),
    "euc_kr": ("euc_kr", "cp949"),
    "utf-16-le": ("utf_16_le",),
    "utf-16-be": ("utf_16_be",),
}
"""What reads a family of encodings, one a superset of the others where there is one."""
WESTERN: Final = frozenset("àâäæçéèêëîïôöœùûüÿñáíóúßåøãõÀÂÄÆÇÉÈÊËÎÏÔÖŒÙÛÜÑÁÍÓÚÅØÃÕ¿¡«»“”‘’–—…€£°§·\xa0")
MOST_NULS: Final = 0.01
RARELY: Final = 0.05
SHORT: Final = 24
"""Bytes too few for statistics."""
BYTES_AT_ONCE: Final = 1 << 20


def encoding_of(data: DataFile, reading: Reading) -> str:
    """The encoding to read ``data`` in.

    Raises:
        DataError: bytes that are no text; a mark that contradicts the encoding its owner names; UTF-16 without a mark.
    """
    marked = next((name for mark, name in MARKS if data.head.startswith(mark)), None)
    if reading.encoding is None:
        return marked or _unmarked(data, reading)
    named = _named(reading.encoding, data)
    if marked is None:
        return "utf-8-sig" if named == "utf-8" else named
    if not named.startswith(marked.removesuffix("-sig")):
        raise DataError(
            f"the file starts with the mark of {marked.removesuffix('-sig').upper()}, and is to be read as {named}",
            where=data.path,
            hint="leave the encoding out: the mark tells it",
        )
    return marked


def _named(encoding: str, data: DataFile) -> str:
    try:
        return known_encoding(encoding)
    except ValueError as error:
        what, _, expected = str(error).partition("; expected ")
        raise DataError(what, where=data.path, expected=expected) from None


def open_text(data: DataFile, reading: Reading, newline: str | None = "\n") -> io.TextIOWrapper:
    """The characters inside, without a mark; lines end as ``newline`` says (see :func:`open`)."""
    return io.TextIOWrapper(data.open(), encoding=encoding_of(data, reading), newline=newline)


def undecodable(data: DataFile, reading: Reading) -> DataError:
    """The error for text in another encoding than it is read in: where its first bad byte is, what would read it."""
    encoding = encoding_of(data, reading).removesuffix("-sig")
    offset, line, around = _first_bad_byte(data, encoding)
    return DataError(
        f"{data.path.name} is not {encoding.upper()}: the byte at offset {offset} (line {line}) cannot be decoded",
        where=f"{data.path}, line {line}, byte offset {offset}",
        expected=f"text in {encoding.upper()}",
        hint=_advice(data, reading, around),
    )


def _unmarked(data: DataFile, reading: Reading) -> str:
    nuls = data.head.count(0)
    if nuls <= MOST_NULS * len(data.head):
        return "utf-8-sig"
    second = data.head[1::2].count(0) / nuls
    if nuls <= len(data.head) / 2 and (second < RARELY or second > 1 - RARELY):
        guess = "utf-16-be" if second < RARELY else "utf-16-le"
        raise DataError(
            f"the file looks like {guess.upper()} without a mark",
            where=data.path,
            expected="UTF-8, or UTF-16 with its mark",
            hint=reading.advice("encoding", guess, data.path),
        )
    raise DataError(
        f"the file is no text: {nuls} of its first {len(data.head)} bytes are zero",
        where=data.path,
        expected="text, or records of text",
    )


def _first_bad_byte(data: DataFile, encoding: str) -> tuple[int, int, bytes]:
    """Its offset, its line, and the bytes from shortly before it on."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, line, chunk = 0, 1, b""
    with data.open() as file:
        while chunk := file.read(BYTES_AT_ONCE):
            pending = decoder.getstate()[0]
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                whole = pending + chunk
                start = max(0, error.start - HEAD // 2)
                line += whole[: error.start].count(b"\n")
                return offset - len(pending) + error.start, line, whole[start : start + HEAD]
            line += chunk.count(b"\n")
            offset += len(chunk)
    pending = decoder.getstate()[0]
    return offset - len(pending), line, pending


def _advice(data: DataFile, reading: Reading, around: bytes) -> str:
    if reading.encoding is not None:
        return "leave the encoding out, or name another"
    if _is_damaged_utf8(around):
        return "it is UTF-8 elsewhere: fetch it again, or drop such bytes with: iconv -c -f UTF-8 -t UTF-8 FILE > OTHER"
    guess = _guess(around)
    if guess is None:
        return f"say what it is, e.g. {reading.advice('encoding', 'gb18030', data.path)}"
    return f"it looks like {guess}: {reading.advice('encoding', guess, data.path)}"


def _is_damaged_utf8(sample: bytes) -> bool:
    decoded = sample.decode("utf-8", "replace")
    bad = decoded.count("\ufffd")
    return sum(character > "\x7f" for character in decoded) - bad >= bad or len(sample) < 4


def _guess(sample: bytes) -> str | None:
    if len(sample) < SHORT and _is_chinese(sample):
        return "gb18030"
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    if best is None:
        return None
    if not best.multi_byte_usage and _is_western(sample):
        return "cp1252"
    return next((reads for reads, family in FAMILIES.items() if best.encoding in family), best.encoding)


def _is_western(sample: bytes) -> bool:
    """Whether all that is not ASCII are letters and marks of western European languages, read as Windows-1252."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return all(each in WESTERN for each in text if each > "\x7f")


def _is_chinese(sample: bytes) -> bool:
    """Whether all that is not ASCII are Chinese characters, read as GB18030."""
    try:
        text = sample.decode("gb18030")
    except UnicodeDecodeError:
        return False
    return all("\u4e00" <= each <= "\u9fff" or each in "，。、！？：；“”（）《》" for each in text if each > "\x7f")
