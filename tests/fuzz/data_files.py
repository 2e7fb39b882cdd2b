"""Data files of every form, bombs among them, each with what reads it."""

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import openpyxl
import pyarrow
import zstandard
from pyarrow import parquet

from glmquant.data.choices import read_questions
from glmquant.data.labeled import read_labeled
from glmquant.data.reading import Reading
from glmquant.data.text import read_documents
from glmquant.data.windows import TokenStream
from glmquant.errors import DataError
from tests.support.golden import tokenizer

TEXTS: Final = [f"第{n}条：请把材料提前发给我，好吗？ Sentence {n}; another." for n in range(60)]
LABELED: Final = "".join(
    json.dumps({"text": text, "label": n % 3}, ensure_ascii=False) + "\n" for n, text in enumerate(TEXTS)
)
BOMB_BYTES: Final = 100 << 20


def write(directory: Path) -> list[str]:
    """Writes the files; their names."""
    _text(directory)
    _containers(directory)
    _columns(directory)
    _bombs(directory)
    return sorted(path.name for path in directory.iterdir())


def reader(name: str) -> Callable[[Path, Path], None]:
    """What reads a file of this name; a bomb must be refused."""
    kind = name.partition(".")[0]
    if kind == "bomb":
        return _refused(name)
    uses = {"labeled": _labeled, "questions": _questions, "chats": _chats}
    return uses.get(kind, _documents)(name)


def _text(directory: Path) -> None:
    turns = [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "Hello"}]
    files = {
        "labeled.jsonl": LABELED,
        "labeled.csv": "id,text,label\n" + "".join(f'{n},"{text}",{n % 3}\n' for n, text in enumerate(TEXTS)),
        "labeled.tsv": "text\tlabel\n" + "".join(f"{text}\t{n % 3}\n" for n, text in enumerate(TEXTS)),
        "array.json": json.dumps([{"text": text} for text in TEXTS]),
        "nested.json": json.dumps({"version": 1, "data": [{"text": text} for text in TEXTS]}, indent=1),
        "chats.json": json.dumps([{"conversations": turns, "id": n} for n in range(30)]),
        "questions.json": json.dumps([{"question": text, "choices": ["a", "b"], "answer": 1} for text in TEXTS]),
        "plain.txt": "\n".join(TEXTS),
    }
    for name, content in files.items():
        (directory / name).write_text(content, encoding="utf-8")
    (directory / "marked.txt").write_bytes("\n".join(TEXTS).encode("utf-16"))


def _containers(directory: Path) -> None:
    content = LABELED.encode()
    (directory / "labeled.gz").write_bytes(gzip.compress(content))
    (directory / "labeled.bz2").write_bytes(bz2.compress(content))
    (directory / "labeled.xz").write_bytes(lzma.compress(content))
    (directory / "labeled.zst").write_bytes(zstandard.ZstdCompressor().compress(content))
    with zipfile.ZipFile(directory / "labeled.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labeled.jsonl", content)


def _columns(directory: Path) -> None:
    table = pyarrow.table({"text": TEXTS, "label": [n % 3 for n in range(len(TEXTS))]})
    parquet.write_table(table, directory / "labeled.parquet", row_group_size=20)
    parquet.write_table(table, directory / "labeled.zstd.parquet", compression="zstd", use_dictionary=False)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    parquet.write_table(pyarrow.table({"messages": [turns] * 40}), directory / "chats.parquet")
    book = openpyxl.Workbook()
    book.active.append(["text", "label"])
    for number, text in enumerate(TEXTS):
        book.active.append([text, number % 3])
    book.save(directory / "labeled.xlsx")


def _bombs(directory: Path) -> None:
    content = b'{"text": "' + b"a" * BOMB_BYTES + b'"}'
    (directory / "bomb.gz").write_bytes(gzip.compress(content))
    (directory / "bomb.xz").write_bytes(lzma.compress(content, preset=0))
    (directory / "bomb.bz2").write_bytes(bz2.compress(content))
    (directory / "bomb.zst").write_bytes(zstandard.ZstdCompressor().compress(content))
    with zipfile.ZipFile(directory / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.jsonl", content)
    repeated = pyarrow.array(["x" * 100_000] * 2000).dictionary_encode()
    parquet.write_table(pyarrow.table({"text": repeated}), directory / "bomb.parquet")


def _documents(name: str) -> Callable[[Path, Path], None]:
    return lambda directory, _: sum(1 for _ in read_documents(directory / name)) and None


def _labeled(name: str) -> Callable[[Path, Path], None]:
    return lambda directory, _: read_labeled(directory / name, reading=Reading("train")) and None


def _questions(name: str) -> Callable[[Path, Path], None]:
    return lambda directory, _: read_questions(directory / name) and None


def _chats(name: str) -> Callable[[Path, Path], None]:
    def use(directory: Path, _: Path) -> None:
        for _ in TokenStream(directory / name, tokenizer("chatglm3-tiny")).documents():
            pass

    return use


def _refused(name: str) -> Callable[[Path, Path], None]:
    def use(directory: Path, scratch: Path) -> None:
        try:
            _documents(name)(directory, scratch)
        except DataError:
            return
        if (directory / name).stat().st_size > 1000:  # a cut one may hold little
            raise AssertionError("a bomb was read")

    return use
