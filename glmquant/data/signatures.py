"""What a file is by its first bytes: containers to take off, and what holds no text to read."""

import re
from collections.abc import Sequence
from typing import Final

COMPRESSION: Final = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
BZIP2: Final = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
ZSTANDARD_SKIPPED: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
PARQUET: Final = b"PAR1"

FOREIGN: Final = (
    (b"%PDF-", "a PDF", "take its text out, e.g. with: pdftotext FILE.pdf"),
    (b"\x89PNG", "an image (PNG)", None),
    (b"\xff\xd8\xff", "an image (JPEG)", None),
    (b"GIF89a", "an image (GIF)", None),
    (b"II*\0", "an image (TIFF)", None),
    (b"SQLite format 3\0", "an SQLite database", "sqlite3 -header -csv FILE 'select text from TABLE' > data.csv"),
    (b"ARROW1", "an Arrow file", "in Python: datasets.Dataset.from_file(FILE).to_json('data.jsonl')"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "in Python: datasets.Dataset.from_file(FILE).to_json('data.jsonl')"),
    (b"Obj\x01", "an Avro file", "write its records as JSON Lines"),
    (b"ORC\n", "an ORC file", "in Python: pyarrow.orc.read_table(FILE), then pyarrow.parquet.write_table"),
    (b"\x93NUMPY", "a numpy array", "give text: tokens and features are no input here"),
    (b"\x89HDF\r\n", "an HDF5 file", "write its records as JSON Lines"),
    (b"GGUF\x03\0", "a GGUF model", "give text, not a model"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save it as .xlsx, or as CSV in UTF-8"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it, and give the file inside"),
    (b"Rar!\x1a", "a RAR archive", "unpack it, and give the file inside"),
    (b"\x04\x22\x4d\x18", "LZ4 data", "decompress it: lz4 -dc FILE > OTHER"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "git lfs pull fetches what it points to"),
)
PICKLE: Final = re.compile(rb"\x80[\x02-\x05][\x95}\](cX\x8c\x58ccK]")
HTML: Final = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
XML: Final = re.compile(rb"\s*<\?xml")
TAR: Final = slice(257, 262)

ZIPS: Final = (
    (r"word/document\.xml", "a Word document", "save it as plain text in UTF-8"),
    (r"ppt/presentation\.xml", "a PowerPoint file", "save its text in a file"),
    (r"content\.xml", "an OpenDocument file", "save it as .xlsx, as CSV, or as plain text"),
    (r"xl/workbook\.bin", "a binary Excel file (.xlsb)", "save it as .xlsx, or as CSV in UTF-8"),
    (r".*\.npy", "numpy arrays", "give text: tokens and features are no input here"),
    (r"(.*/)?data\.pkl", "a PyTorch file", "give text, not tensors"),
)


def compression_of(head: bytes) -> str | None:
    """``gzip``, ``zstandard``, ``bzip2``, ``xz`` or ``zip``; None for anything else."""
    if BZIP2.match(head):
        return "bzip2"
    if ZSTANDARD_SKIPPED.match(head):
        return "zstandard"
    return next((kind for magic, kind in COMPRESSION.items() if head.startswith(magic)), None)


def foreign(head: bytes) -> tuple[str, str | None] | None:
    """What a file without text or records is, and what to do with it; None for others."""
    for magic, what, hint in FOREIGN:
        if head.startswith(magic):
            return what, hint
    if head[TAR] == b"ustar":
        return "a tar archive", "unpack it with tar xf, and give the files inside"
    if PICKLE.match(head):
        return "a pickle, which may run code when it is opened", "write its records as JSON Lines where they come from"
    if HTML.match(head):
        return "an HTML page", "if it is an error page of a download, download again; else take the text out of it"
    if XML.match(head):
        return "XML", "take the text out of it, into a text file or JSON Lines"
    return None


def is_workbook(names: Sequence[str]) -> bool:
    """Whether a zip with these members is an Excel workbook."""
    return "xl/workbook.xml" in names


def foreign_zip(names: Sequence[str]) -> tuple[str, str] | None:
    """What a zip with these members is, where it is no archive of data."""
    for member, what, hint in ZIPS:
        if any(re.fullmatch(member, name) for name in names):
            return what, hint
    return None
