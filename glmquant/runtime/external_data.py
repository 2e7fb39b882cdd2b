"""Files that a bundle's graph takes its tensors from, found before ONNX Runtime opens any.

The graph's protobuf is walked here, through the few fields in which a tensor can lie: importing onnx for it would take
a quarter of a second of a command's start, protobuf alone a tenth. Whatever glmquant's own graphs do not hold, such as
groups, is refused rather than guessed at; fields of other numbers are passed over, as protobuf's parsers do. Graphs
within graphs and functions are refused, too: a loop might never end.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import file_inside, read_bytes
from glmquant.errors import ExportError

MOST_GRAPH_BYTES: Final = 16 << 20
"""Weights lie beside the graph; the graph of the largest GLM has less than 2 MB."""

MOST_FIELDS: Final = 1 << 20
DEEPEST: Final = 64
"""Messages within messages; protobuf's own limit is 100."""

TENSOR: Final = "tensor"
ENTRY: Final = "entry"
FIELDS: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: TENSOR, 6: "graph", 10: TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: TENSOR, 2: TENSOR},
    TENSOR: {13: ENTRY},
}
"""Of each message of onnx/onnx.proto3, the numbers of the fields that tensors lie in, and what those fields hold."""

NESTED: Final = (("attribute", "graph"), ("model", "function"))

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED: Final = {FIXED64: 8, FIXED32: 4}
KEY, VALUE = 1, 2


def require_data_inside(directory: Path, graph: str) -> None:
    """That every file a graph names lies in its bundle, whichever tensor of it names one.

    Args:
        graph: name of the file in ``directory``.

    Raises:
        ExportError: it is no ONNX graph, or has others within.
        CheckpointError: it is no regular file, or too large, or names a file elsewhere, or one that is none.
    """
    path = directory / graph
    content = memoryview(read_bytes(path, MOST_GRAPH_BYTES))
    try:
        names, is_nested = _locations(content)
    except (ValueError, IndexError) as error:
        raise ExportError(
            f"ONNX Runtime cannot load {path}: it is no ONNX graph",
            where=path,
            expected="a graph that glmquant exported",
            hint="export the model again; this file is damaged or incomplete",
        ) from error
    for name in sorted(names):
        file_inside(directory, name.decode("utf-8", "surrogateescape"), where=path)
    if is_nested:
        raise ExportError(
            "the graph holds another graph or a function: a loop, say, that need not end",
            where=path,
            expected="a graph that glmquant exported, which has none",
            hint="export the checkpoint with glmquant",
        )


def _locations(model: memoryview) -> tuple[set[bytes], bool]:
    """What the entries ``location`` of all tensors say, and whether a graph lies within another, or a function.

    Raises:
        ValueError, IndexError: it is no graph.
    """
    names: set[bytes] = set()
    is_nested = False
    waiting, seen = [("model", model, 0)], 0
    while waiting:
        kind, message, depth = waiting.pop()
        inside, strings = FIELDS.get(kind, {}), {}
        for number, content in _fields(message):
            seen += 1
            if seen > MOST_FIELDS or depth > DEEPEST:
                raise ValueError("more than any graph holds")
            if kind == ENTRY:
                strings[number] = bytes(content)
            elif number in inside:
                waiting.append((inside[number], content, depth + 1))
                is_nested = is_nested or (kind, inside[number]) in NESTED
        if strings.get(KEY) == b"location":
            names.add(strings.get(VALUE, b""))
    return names, is_nested


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field that has a length, the last of a repeated string behind the others."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError("a field's number")
        if kind == VARINT:
            _, at = _varint(message, at)
        elif kind == BYTES:
            size, at = _varint(message, at)
            if size > end - at:
                raise ValueError("a field beyond its message")
            yield number, message[at : at + size]
            at += size
        else:
            at += FIXED.get(kind, end + 1)
        if at > end:
            raise ValueError("a field beyond its message")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number that does not end")
