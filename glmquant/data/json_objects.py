"""A file that is one JSON object: a record, a list of records under a key, or columns."""

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Final

from glmquant.data.fields import ANSWERS, CHATS, QUESTIONS, TEXTS
from glmquant.errors import DataError

log = logging.getLogger("glmquant")

LISTS: Final = ("data", "train", "rows", "records", "examples", "items", "instances")
"""Keys under which a file that is one object has its records."""
LONGEST_STEM: Final = 50
ONE_RECORD: Final = 'a JSON object in each line or in one array, e.g. {"text": "…"}'
SPLIT: Final = {"columns", "data"}
"""Keys of what pandas writes with ``orient="split"``, beside ``index``."""


def records_inside(fields: Mapping[str, Any], own: Collection[str], path: Path) -> Sequence[Any] | None:
    """The records that the one object of a file holds; None where it is a record itself.

    Args:
        own: fields that their owner names, in lower case.

    Raises:
        DataError: several lists of records, one beside a text, or columns of different lengths.
    """
    usual = {*TEXTS, *CHATS, *QUESTIONS, *ANSWERS, *own}
    if (rows := _rows_of_columns(fields, usual, path)) is not None:
        log.info("%s is one object of columns: %d records", path.name, len(rows))
        return rows
    lists = _lists_in(fields)
    texts = [name for name, value in fields.items() if _folded(name) in usual and _is_of_a_record(name, value)]
    if texts and lists and not any(_folded(name) in usual for key in lists for name in fields[key][0]):
        return None
    if len(lists) > 1 or (lists and texts):
        many = f"one object with several lists of records: {', '.join(map(repr, lists))}"
        both = f"one object with a text, {texts[0]!r}, and a list of records, {lists[0]!r}" if texts else many
        place, file = _for_jq(lists[0]), re.sub(r"\W", "_", lists[0])[:LONGEST_STEM]
        raise DataError(
            f"the file is {both}",
            where=path,
            expected=ONE_RECORD,
            hint=f"take one out, e.g. with: jq -c {quote(f'{place}[]')} FILE > {file}.jsonl"
            + (f", or the record with: jq -c {quote(f'del({place})')} FILE > record.jsonl" if texts else ""),
        )
    return fields[lists[0]] if lists else None


def _for_jq(key: str) -> str:
    return f".{key}" if key.isascii() and key.isidentifier() else f".[{json.dumps(key, ensure_ascii=False)}]"


def _lists_in(fields: Mapping[str, Any]) -> list[str]:
    """Keys of lists of objects, where one has a usual name."""
    lists = [key for key, value in fields.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return [key for key in lists if _folded(key) not in CHATS] if any(key in LISTS for key in lists) else []


def _is_of_a_record(name: str, value: Any) -> bool:
    """Whether a usual field holds what it holds in a record: a text, or turns."""
    if isinstance(value, str):
        return bool(value.strip())
    return _folded(name) in CHATS and isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _rows_of_columns(fields: Mapping[str, Any], usual: Collection[str], path: Path) -> list[dict[str, Any]] | None:
    columns = _columns(fields) or {}
    if not any(_folded(name) in usual and _holds_rows(name, cells) for name, cells in columns.items()):
        return None
    if any(_folded(name) in CHATS and not _holds_rows(name, cells) for name, cells in columns.items()):
        return None
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"columns of different lengths: {', '.join(f'{name} {length}' for name, length in lengths.items())[:200]}",
            where=path,
            expected=ONE_RECORD,
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _columns(fields: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """Cells by column, as datasets and pandas write them; None where the object is something else."""
    values = list(fields.values())
    if set(fields) - {"index"} == SPLIT and all(isinstance(value, list) for value in values):
        return _split(fields["columns"], fields["data"])
    if values and all(isinstance(value, dict) for value in values):
        rows = list(values[0])
        same = all(list(value) == rows for value in values)
        return {name: list(cells.values()) for name, cells in fields.items()} if same else None
    return dict(fields) if values and all(isinstance(value, list) for value in values) else None


def _split(names: list[Any], rows: list[Any]) -> dict[str, list[Any]] | None:
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return None
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        return None
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _holds_rows(name: str, cells: Sequence[Any]) -> bool:
    """Whether the cells are texts, or, of conversations, lists of turns or nothing."""
    wanted: type | tuple[type, ...] = (list, str) if _folded(name) in CHATS else str
    return any(cells) and all(cell is None or isinstance(cell, wanted) for cell in cells)


def _folded(name: str) -> str:
    return name.strip().casefold()
