"""Which encoding a file's text is in: by its mark, by its owner's word, else UTF-8; others are recognized and named."""

import codecs
import io
from typing import Final

from glmquant.core.encodings import MARKS, guessed_encoding, known_encoding
from glmquant.data.reading import Reading
from glmquant.data.streams import HEAD, DataFile
from glmquant.errors import DataError

MOST_NULS: Final = 0.01
RARELY: Final = 0.05
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
    guess = guessed_encoding(around)
    if guess is None:
        return f"say what it is, e.g. {reading.advice('encoding', 'gb18030', data.path)}"
    return f"it looks like {guess}: {reading.advice('encoding', guess, data.path)}"


def _is_damaged_utf8(sample: bytes) -> bool:
    decoded = sample.decode("utf-8", "replace")
    bad = decoded.count("\ufffd")
    return sum(character > "\x7f" for character in decoded) - bad >= bad or len(sample) < 4
