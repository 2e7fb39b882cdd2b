"""The bytes of a data file: pipes, and what compression or a zip holds, within bounds."""

import bz2
import io
import lzma
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from glmquant.core.near import did_you_mean
from glmquant.data.signatures import compression_of, foreign_zip, is_workbook
from glmquant.errors import DataError

STDIN: Final = "-"
LARGEST_SPOOL: Final = 64 << 30
"""Bytes taken from a pipe."""
FREE_BYTES: Final = 64 << 20
MOST_RATIO: Final = 200
"""A container may inflate to ``FREE_BYTES``, or to so many times its own size, whichever is more."""
XZ_MEMORY: Final = 256 << 20
HEAD: Final = 1 << 16
INPUT_AT_ONCE: Final = 1 << 9
"""Compressed bytes: zstandard makes at most 16 MiB of them."""
CHUNK: Final = 1 << 16
MOST_LAYERS: Final = 2

_spooled: dict[object, Any] = {}
"""Pipes read so far, for the life of the process: what reads a file twice finds it here."""


@dataclass(frozen=True, eq=False)
class DataFile:
    """A data file as its owner named it.

    Attributes:
        path: as it was named.
        on_disk: a regular file with its bytes.
        layers: containers to take off, from outside: ``gzip``, ``zstandard``, ``bzip2``, ``xz``, or a zip's member as
            ``zip:NAME``.
        name: of what is inside, whose ending may tell what it is meant to be.
    """

    path: Path
    on_disk: Path
    layers: tuple[str, ...]
    name: str

    def open(self) -> io.BufferedReader:
        """The bytes inside, inflated as they are read.

        Raises:
            DataError: now or while reading: damage, or more bytes than :data:`MOST_RATIO` allows.
        """
        stream: BinaryIO = self.on_disk.open("rb")
        for layer in self.layers:
            limit = max(FREE_BYTES, MOST_RATIO * self.on_disk.stat().st_size)
            stream = cast(BinaryIO, io.BufferedReader(_Inflated(stream, layer, limit, self.path), CHUNK))
        return cast(io.BufferedReader, stream)

    @cached_property
    def head(self) -> bytes:
        """The first bytes inside."""
        with self.open() as stream:
            return stream.read(HEAD)

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()

    def seekable(self) -> Path:
        """A regular file of the bytes inside, for readers that jump."""
        if not self.layers:
            return self.on_disk
        key = (self.on_disk, self.layers)
        if key not in _spooled:
            with self.open() as stream:
                _spooled[key] = _spool(stream, self.path)
        return Path(_spooled[key].name)


def open_data(path: Path) -> DataFile:
    """A file, a pipe, or standard input for ``-``, with its containers recognized.

    Raises:
        DataError: no such file, a directory or a device, an empty file, or a container that holds no single file.
    """
    data = DataFile(path, _on_disk(path), (), path.name)
    if not data.head:
        raise DataError("the file is empty", where=path, expected="text or records")
    while (kind := compression_of(data.head)) is not None:
        if len(data.layers) == MOST_LAYERS:
            raise DataError("the file is compressed more than twice", where=path, hint="decompress it once")
        if kind != "zip":
            data = DataFile(path, data.on_disk, (*data.layers, kind), _without_ending(data.name))
        elif (member := _only_member(data)) is None:
            return data
        else:
            data = DataFile(path, data.on_disk, (*data.layers, f"zip:{member}"), member.rpartition("/")[2])
        if not data.head:
            raise DataError("there is nothing inside", where=path, expected="text or records")
    return data


def _without_ending(name: str) -> str:
    stem, dot, _ = name.rpartition(".")
    return stem if dot else name


def _on_disk(path: Path) -> Path:
    if str(path) == STDIN and not path.exists():
        return _spooled_pipe(STDIN, lambda: sys.stdin.buffer, path)
    try:
        status = path.stat()
    except OSError:
        raise _no_file(path, "no such file", did_you_mean(path)) from None
    if stat.S_ISDIR(status.st_mode):
        raise _no_file(path, "a directory, not a file", _inside(path))
    if stat.S_ISREG(status.st_mode):
        return path
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
        return _spooled_pipe((str(path), status.st_dev, status.st_ino), lambda: path.open("rb"), path)
    raise _no_file(path, "not a file to read")


def _no_file(path: Path, what: str, hint: str | None = None) -> DataError:
    return DataError(f"{what}: {path}", where=path, expected="a file of text or records (docs/data.md)", hint=hint)


def _inside(directory: Path) -> str | None:
    """What may have been meant by a directory."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file())[:1000]
    if {"dataset_info.json", "dataset_dict.json", "state.json"} & set(names):
        return (
            "it is what datasets' save_to_disk writes; in Python: "
            f"datasets.load_from_disk({str(directory)!r}).to_json('data.jsonl'), a split at a time"
        )
    shown = ", ".join(names[:5])
    return f"name its files, one by one: {shown}" if shown else None


def _spooled_pipe(key: object, opened: Callable[[], BinaryIO], path: Path) -> Path:
    if key not in _spooled:
        try:
            _spooled[key] = _spool(opened(), path)
        except OSError as error:
            raise DataError(f"cannot read it: {error.strerror}", where=path) from error
    return Path(_spooled[key].name)


def _spool(stream: BinaryIO, path: Path) -> Any:
    """A temporary file of all that a stream gives, removed when the process ends."""
    file = tempfile.NamedTemporaryFile(prefix="glmquant-")  # noqa: SIM115
    size = 0
    while chunk := stream.read(CHUNK):
        size += len(chunk)
        if size > LARGEST_SPOOL:
            raise DataError(f"more than {LARGEST_SPOOL >> 30} GiB came out of it", where=path, hint="write a file")
        file.write(chunk)
    file.flush()
    return file


class _Inflated(io.RawIOBase):
    """What a container holds, of at most ``limit`` bytes; closing it closes the container."""

    def __init__(self, outer: BinaryIO, layer: str, limit: int, path: Path) -> None:
        self._outer, self._layer, self._limit, self._path = outer, layer, limit, path
        self._chunks = _chunks_of(outer, layer)
        self._rest, self._size = memoryview(b""), 0  # a view: cutting it copies nothing

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(self._next())
            self._size += len(self._rest)
            if self._size > self._limit:
                raise self._too_large()
        taken = min(len(buffer), len(self._rest))
        buffer[:taken], self._rest = self._rest[:taken], self._rest[taken:]
        return taken

    def close(self) -> None:
        if not self.closed:
            self._outer.close()
        super().close()

    def _next(self) -> bytes:
        kind = self._layer.partition(":")[0]
        try:
            return next((chunk for chunk in self._chunks if chunk), b"")
        except DataError:
            raise
        except EOFError:
            raise DataError(
                f"the {kind} data end too early: the file is cut", where=self._path, hint="fetch or make it again"
            ) from None
        except (*_DAMAGES, _zstd_error()) as error:
            raise DataError(f"damaged {kind} data: {str(error)[:200]}", where=self._path) from None

    def _too_large(self) -> DataError:
        return DataError(
            f"it inflates to more than {self._limit >> 20} MiB, over {MOST_RATIO} times its size: this is no text",
            where=self._path,
            hint="if it is, decompress it yourself and give the file",
        )


_DAMAGES = (OSError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, MemoryError)


def _zstd_error() -> type[Exception]:
    module = sys.modules.get("zstandard")
    return module.ZstdError if module is not None else ValueError


def _chunks_of(outer: BinaryIO, layer: str) -> Iterator[bytes]:
    kind, _, member = layer.partition(":")
    if kind == "zip":
        return _member_chunks(outer, member)
    makers: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(wbits=31),
        "bzip2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY),
        "zstandard": _zstandard,
    }
    return _inflate(outer, makers[kind])


def _inflate(outer: BinaryIO, make: Callable[[], Any]) -> Iterator[bytes]:
    """One stream behind another; zeros behind the last are padding."""
    decompressor = make()
    while data := outer.read(INPUT_AT_ONCE):
        while data:
            if decompressor.eof:
                data = data.lstrip(b"\0")
                if not data:
                    break
                decompressor = make()
            yield decompressor.decompress(data)
            data = decompressor.unused_data if decompressor.eof else b""
    if not decompressor.eof:
        raise EOFError


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise missing_reader("zstandard", "zstandard data") from None
    return zstandard.ZstdDecompressor().decompressobj()


def missing_reader(package: str, what: str) -> DataError:
    """The error where an optional package is not installed."""
    return DataError(
        f"reading {what} needs the package {package}, which is not installed",
        expected="the extra 'data'",
        hint="pip install 'glmquant[data]'",
    )


def _member_chunks(outer: BinaryIO, member: str) -> Iterator[bytes]:
    with zipfile.ZipFile(outer) as archive, archive.open(member) as file:
        yield from iter(lambda: file.read(CHUNK), b"")


def _only_member(data: DataFile) -> str | None:
    """The one data file in a zip; None where the zip as a whole is a workbook."""
    if data.layers:
        raise DataError("a zip inside another container", where=data.path, hint="unpack it first")
    try:
        with zipfile.ZipFile(data.on_disk) as archive:
            members = archive.infolist()
    except _DAMAGES as error:
        raise DataError(f"damaged zip data: {str(error)[:200]}", where=data.path) from None
    names = [member.filename for member in members]
    if is_workbook(names):
        return None
    if (foreign := foreign_zip(names)) is not None:
        raise DataError(f"the file is {foreign[0]}", where=data.path, expected="text or records", hint=foreign[1])
    files = [member for member in members if not member.is_dir() and _is_data(member.filename)]
    if len(files) != 1:
        listed = ", ".join(member.filename for member in files[:5])
        raise DataError(
            f"the zip holds {len(files)} files" + (f": {listed}" if files else ""),
            where=data.path,
            expected="one data file",
            hint="unpack it, and give the files you want",
        )
    if files[0].flag_bits & 1:
        raise DataError(f"{files[0].filename} in the zip is encrypted", where=data.path, hint="unpack it first")
    return files[0].filename


def _is_data(name: str) -> bool:
    """Not what file managers leave in an archive."""
    return not name.startswith("__MACOSX/") and not name.rpartition("/")[2].startswith(".")
