"""Encodings of text: their names, their marks, and which one bytes that are no UTF-8 look like."""

import codecs
from typing import Final

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
SHORT: Final = 24
"""Bytes that are not ASCII, too few for statistics."""
SAMPLE: Final = 1 << 12
"""Bytes around one that is no UTF-8 to guess by."""
NOT_OF_FILES: Final = ("idna", "punycode", "undefined")
"""Encodings of names and of nothing, which Python lists beside those of text."""


def known_encoding(encoding: str) -> str:
    """Python's own name of an encoding that text is read in piece by piece.

    Raises:
        ValueError: there is none of this name.
    """
    try:
        "".encode(encoding)
        codecs.getincrementaldecoder(encoding)()
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        name = NOT_OF_FILES[0]
    if name in NOT_OF_FILES:
        raise ValueError(f"no encoding {encoding[:60]!r}; expected one such as gb18030, utf-16, big5, cp1252")
    return name


def unmarked(raw: bytes) -> bytes:
    """Text in UTF-8 without a mark: of UTF-8, UTF-16 or UTF-32 with one; anything else as it is.

    Raises:
        UnicodeDecodeError: what the mark promises is not there.
    """
    marked = next((name for mark, name in MARKS if raw.startswith(mark)), None)
    return raw if marked is None else raw.decode(marked).encode()


def likely_encoding(raw: bytes) -> str | None:
    """The encoding of text that is no UTF-8, as Python calls it; None where it is UTF-8, or nothing known."""
    if 0 in raw[:2]:
        return "utf-16-be" if raw[0] == 0 else "utf-16-le"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        start = max(0, error.start - SAMPLE // 2)
        return guessed_encoding(raw[start : start + SAMPLE])
    return None


def guessed_encoding(sample: bytes) -> str | None:
    """The encoding that bytes look like, by statistics; None where it is none."""
    if sum(byte > 0x7F for byte in sample) < SHORT and _is_chinese(sample):
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
